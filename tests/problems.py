"""Random problems, one row a model, that all tests of rules share: data, a start, a prior, and ln P(y) written by hand.

Everything is drawn with jax.random, so that a thousand problems are one vmapped program.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

import elbo
from models import factor_analysis, mixture, ppca
from models.families import (
    Bernoulli,
    Categorical,
    LinearGaussian,
    MultivariateNormal,
    Normal,
    Poisson,
    PseudoData,
    PseudoScale,
)

Tree = Any
FLOOR = 1e-3
VALUES = 4
INPUTS = 2


class Sizes(NamedTuple):
    """Of a problem: N data in D dimensions, K components (or latent dimensions)."""

    data: int
    dims: int
    components: int


SMALL = Sizes(16, 2, 2)
LARGER = Sizes(40, 4, 3)


@dataclass(frozen=True)
class Problem:
    """One row of the table.

    Attributes:
      model: sizes -> model with an exact encoder.
      data: (key, sizes) -> ys, of leading axis N.
      theta: (key, sizes, ys) -> where to start.
      log_marginal: (theta, y) -> ln P_Θ(y) of one datum, written without the encoder.
    """

    model: Callable[[Sizes], elbo.Model]
    data: Callable[[jax.Array, Sizes], Tree]
    theta: Callable[[jax.Array, Sizes, Tree], Tree]
    log_marginal: Callable[[Tree, Tree], jax.Array]


def start(problem: Problem, key: jax.Array, sizes: Sizes) -> tuple[elbo.Params, Tree]:
    """Parameters, Ψ = Θ, and data."""
    data_key, theta_key = jax.random.split(key)
    ys = problem.data(data_key, sizes)
    theta = problem.theta(theta_key, sizes, ys)
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta)), ys


def random_weights(key: jax.Array, size: int) -> jax.Array:
    """Weights [size] from 0 to 2, about a third of them 0, the first one not."""
    value_key, zero_key = jax.random.split(key)
    weights = jax.random.uniform(value_key, (size,), minval=0.1, maxval=2.0)
    return jnp.where(jax.random.bernoulli(zero_key, 0.3, (size,)), 0, weights).at[0].set(1)


def prior_of(reference: Tree, count: jax.Array | float, kind: str) -> Tree:
    """A prior for every family: `kind` "data" (`PseudoData`) or "scale" (`PseudoScale` where there is a scale)."""

    def one(family):
        scale = kind == "scale" and hasattr(family, "scale_statistics_of")
        return (PseudoScale if scale else PseudoData)(family, count)

    return jax.tree.map(one, reference, is_leaf=elbo.is_family)


# data


def clusters(key: jax.Array, sizes: Sizes) -> jax.Array:
    """K Gaussian clouds of unequal shapes, in random units and around a random origin, [N, D]."""
    keys = jax.random.split(key, 6)
    n, d, k = sizes
    which = jax.random.randint(keys[0], (n,), 0, k)
    centres = 2 * jax.random.normal(keys[1], (k, d))
    shapes = jax.random.normal(keys[2], (k, d, d))
    points = centres[which] + jnp.einsum("nij,nj->ni", shapes[which], jax.random.normal(keys[3], (n, d)))
    units = jnp.exp(jax.random.uniform(keys[4], (d,), minval=-3, maxval=3))
    return units * (points + 10 * jax.random.normal(keys[5], (d,)))


def counts(key: jax.Array, sizes: Sizes) -> jax.Array:
    """Counts from 0 to hundreds, [N, D], floating point."""
    rate_key, key = jax.random.split(key)
    rates = jnp.exp(jax.random.uniform(rate_key, sizes[:2], minval=-1, maxval=5))
    return jax.random.poisson(key, rates).astype(rates.dtype)


def bits(key: jax.Array, sizes: Sizes) -> jax.Array:
    """Bits [N, D] of unequal frequencies, floating point."""
    odds_key, key = jax.random.split(key)
    odds = jax.random.uniform(odds_key, sizes[:2])
    return jax.random.bernoulli(key, odds).astype(odds.dtype)


def letters(key: jax.Array, sizes: Sizes) -> jax.Array:
    """Integers below VALUES, [N]."""
    return jax.random.randint(key, (sizes.data,), 0, VALUES)


def words(key: jax.Array, sizes: Sizes) -> jax.Array:
    """Integers below VALUES, [N, D]."""
    return jax.random.randint(key, sizes[:2], 0, VALUES)


def lines(key: jax.Array, sizes: Sizes) -> tuple[jax.Array, jax.Array]:
    """Pairs y [N, D], x [N, INPUTS]: each datum on one of K random planes, with noise."""
    keys = jax.random.split(key, 4)
    n, d, k = sizes
    x = jax.random.normal(keys[0], (n, INPUTS))
    slopes = 2 * jax.random.normal(keys[1], (k, d, INPUTS))
    which = jax.random.randint(keys[2], (n,), 0, k)
    return jnp.einsum("ndp,np->nd", slopes[which], x) + which[:, None] + 0.3 * jax.random.normal(keys[3], (n, d)), x


def factors(key: jax.Array, sizes: Sizes) -> jax.Array:
    """Points near a plane, with unequal noise, [N, D + 2]."""
    keys = jax.random.split(key, 4)
    n, d, k = sizes
    d = d + 2
    plane = 2 * jax.random.normal(keys[0], (k, d))
    noise = jnp.exp(jax.random.uniform(keys[1], (d,), minval=-2, maxval=0))
    return jax.random.normal(keys[2], (n, k)) @ plane + noise * jax.random.normal(keys[3], (n, d)) + 3


# starts


def spread(ys: jax.Array) -> jax.Array:
    """Standard deviations of data [N, D], [D]."""
    return jnp.std(ys, 0) + 1e-2


def some_rows(key: jax.Array, sizes: Sizes, ys: jax.Array) -> jax.Array:
    """K of the data, [K, D]."""
    return ys[jax.random.choice(key, sizes.data, (sizes.components,), replace=False)]


def normals(key, sizes, ys):
    row_key, key = jax.random.split(key)
    scale = spread(ys) * jnp.exp(jax.random.uniform(key, (sizes.components, sizes.dims), minval=-1, maxval=1))
    return Normal.create(some_rows(row_key, sizes, ys), scale, floor=FLOOR * spread(ys))


def multivariate_normals(covariance_type, key, sizes, ys):
    row_key, key = jax.random.split(key)
    batch = () if covariance_type == "tied" else (sizes.components,)
    if covariance_type == "spherical":
        covariance = jnp.mean(spread(ys) ** 2) * jax.random.uniform(key, batch, minval=0.1, maxval=2.0)
    else:
        shape = jax.random.normal(key, (*batch, sizes.dims, sizes.dims)) / math.sqrt(sizes.dims)
        covariance = shape @ jnp.swapaxes(shape, -1, -2) + 0.1 * jnp.eye(sizes.dims)
        covariance = covariance * spread(ys)[:, None] * spread(ys)
    mean = some_rows(row_key, sizes, ys)
    floor = FLOOR * (jnp.min(spread(ys)) if covariance_type == "spherical" else spread(ys))
    return MultivariateNormal.create(mean, covariance, covariance_type=covariance_type, floor=floor)


def regressions(spherical, key, sizes, ys):
    keys = jax.random.split(key, 3)
    k, d = sizes.components, sizes.dims
    scale = spread(ys[0]) * jnp.exp(jax.random.uniform(keys[0], (k, d), minval=-1, maxval=1))
    weights, bias = jax.random.normal(keys[1], (k, d, INPUTS)), jax.random.normal(keys[2], (k, d))
    floor = FLOOR * spread(ys[0])
    return LinearGaussian.create(
        weights,
        bias,
        scale[:, 0] if spherical else scale,
        centre=jnp.mean(ys[1], 0),
        floor=jnp.min(floor) if spherical else floor,
    )


def coins(key, sizes, ys):
    return Bernoulli.create(jax.random.uniform(key, (sizes.components, sizes.dims), minval=0.1, maxval=0.9))


def rates(key, sizes, ys):
    noise = jnp.exp(0.5 * jax.random.normal(key, (sizes.components, sizes.dims)))
    return Poisson.create((jnp.mean(ys, 0) + 0.1) * noise)


def dice(key, sizes, ys):
    return Categorical.create(jax.random.dirichlet(key, jnp.full(VALUES, 2.0), (sizes.components,)))


# models


def regression_log_joint(theta: mixture.Theta, z: jax.Array, y: Tree) -> jax.Array:
    """A switching regression: ln P(z, y | x) for y a pair (y, x)."""
    return theta.weights.log_prob(z) + jnp.dot(z, theta.components.log_prob(*y), precision=elbo.PRECISION)


def mixture_row(data: Callable, components: Callable, log_joint: Callable = mixture.log_joint) -> Problem:
    """A mixture as a row of the table."""

    def theta(key, sizes, ys):
        weight_key, key = jax.random.split(key)
        weights = jax.random.dirichlet(weight_key, jnp.full(sizes.components, 2.0))
        return mixture.Theta(Categorical.create(weights), components(key, sizes, ys))

    def log_marginal(theta, y):
        per_component = theta.components.log_prob(*(y if isinstance(y, tuple) else (y,)))
        return logsumexp(jax.nn.log_softmax(theta.weights.logits) + per_component)

    def model(sizes):
        return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(sizes.components)))

    return Problem(model, data, theta, log_marginal)


def factor_row(noise: str) -> Problem:
    """Factor analysis (diagonal noise) or PPCA (spherical noise) as a row of the table."""

    def theta(key, sizes, ys):
        bias_key, key = jax.random.split(key)
        theta = factor_analysis.init(key, ys, sizes.components, noise=noise).theta
        shift = 0.3 * spread(ys) * jax.random.normal(bias_key, ys.shape[1:])
        observation = theta.observation
        return theta._replace(
            observation=LinearGaussian(
                observation.weights,
                observation.bias + shift,
                observation.log_scale,
                observation.centre,
                observation.floor,
            )
        )

    def log_marginal(theta, y):
        f = theta.observation
        noise = jnp.diag(f.scale() ** 2)
        return jax.scipy.stats.multivariate_normal.logpdf(y, f.bias, f.weights @ f.weights.T + noise)

    model = {"diagonal": factor_analysis.model, "spherical": ppca.model}[noise]
    return Problem(lambda sizes: model(sizes.components), factors, theta, log_marginal)


class Bits(NamedTuple):
    """Parameters of the channel: D hidden bits, each seen as one of VALUES letters; the letters' laws [2, VALUES]."""

    prior: Bernoulli
    letters: Categorical


def channel_log_joint(theta: Bits, z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln P(z) and ln P(y | z): a latent of independent bits, and a log_joint of two terms."""
    log_p = jax.vmap(theta.letters.log_prob)(y)
    return theta.prior.log_prob(z), jnp.sum((1 - z) * log_p[:, 0] + z * log_p[:, 1])


def channel() -> Problem:
    """Hidden bits behind a noisy channel."""

    def theta(key, sizes, ys):
        prior_key, key = jax.random.split(key)
        prior = Bernoulli.create(jax.random.uniform(prior_key, (sizes.dims,), minval=0.2, maxval=0.8))
        return Bits(prior, Categorical.create(jax.random.dirichlet(key, jnp.full(VALUES, 2.0), (2,))))

    def log_marginal(theta, y):
        p, letters = theta.prior.probabilities(), theta.letters.probabilities()
        return jnp.sum(jnp.log((1 - p) * letters[0, y] + p * letters[1, y]))

    def model(sizes):
        return elbo.Model(channel_log_joint, elbo.exact(channel_log_joint, elbo.bernoulli(sizes.dims)))

    return Problem(model, words, theta, log_marginal)


PROBLEMS = {
    "categorical": mixture_row(letters, dice),
    "bernoulli": mixture_row(bits, coins),
    "poisson": mixture_row(counts, rates),
    "normal": mixture_row(clusters, normals),
    "full": mixture_row(clusters, partial(multivariate_normals, "full")),
    "tied": mixture_row(clusters, partial(multivariate_normals, "tied")),
    "spherical": mixture_row(clusters, partial(multivariate_normals, "spherical")),
    "regression": mixture_row(lines, partial(regressions, False), regression_log_joint),
    "regression-spherical": mixture_row(lines, partial(regressions, True), regression_log_joint),
    "factor-analysis": factor_row("diagonal"),
    "ppca": factor_row("spherical"),
    "channel": channel(),
}
