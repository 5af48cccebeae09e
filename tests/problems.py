"""Random problems, one row a model, that all tests of rules share: data, a start, a prior, and ln P(y) written by hand.

Everything is drawn by numpy in float64: to draw compiles nothing, and jit makes of it what x64 says.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

import elbo
from elbo._types import PyTree
from elbo.models import factor_analysis, mixture
from elbo.models.families import (
    Bernoulli,
    Categorical,
    LinearGaussian,
    MultivariateNormal,
    Normal,
    Poisson,
    PseudoData,
    PseudoScale,
)

Rng = np.random.Generator
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
      data: (rng, sizes) -> ys, of leading axis N.
      theta: (rng, sizes, ys) -> where to start.
      log_marginal: (theta, y) -> ln P_Θ(y) of one datum, written without an encoder.
    """

    model: Callable[[Sizes], elbo.Model]
    data: Callable[[Rng, Sizes], PyTree]
    theta: Callable[[Rng, Sizes, PyTree], PyTree]
    log_marginal: Callable[[PyTree, PyTree], jax.Array]


def start(name: str, seed: int = 0, sizes: Sizes = SMALL) -> tuple[elbo.Model, elbo.Params, PyTree]:
    """The model, parameters with Ψ = Θ, and data of one problem; jax arrays, none shared."""
    problem, rng = PROBLEMS[name], np.random.default_rng(seed)
    ys = problem.data(rng, sizes)
    theta = problem.theta(rng, sizes, ys)
    return model_of(name, sizes), *arrays((elbo.Params.tied(theta), ys))


@cache
def model_of(name: str, sizes: Sizes) -> elbo.Model:
    """The model of one problem, always the same, so that what is compiled for it serves again."""
    return PROBLEMS[name].model(sizes)


def arrays(tree: PyTree, dtype: Any = float) -> PyTree:
    """Numpy's numbers as jax arrays, floating-point ones of the given type."""
    return jax.tree.map(lambda a: jnp.array(a, dtype if np.issubdtype(np.result_type(a), np.floating) else None), tree)


def stack(trees: list[PyTree]) -> PyTree:
    """Trees of arrays as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def random_weights(rng: Rng, size: int) -> np.ndarray:
    """Weights [size] from 0.1 to 2, about a third of them 0 instead, the first one not."""
    weights = rng.uniform(0.1, 2, size) * (rng.random(size) > 0.3)
    weights[0] = 1
    return weights


def prior_of(reference: PyTree, count: Any, kind: str) -> PyTree:
    """A prior for every family: `kind` "data" (`PseudoData`) or "scale" (`PseudoScale` where there is a scale)."""

    def one(family):
        scale = kind == "scale" and hasattr(family, "scale_statistics_of")
        return (PseudoScale if scale else PseudoData)(family, np.asarray(count))

    return jax.tree.map(one, reference, is_leaf=elbo.extend.is_family)


# data


def clusters(rng: Rng, sizes: Sizes) -> np.ndarray:
    """K Gaussian clouds of unequal shapes, in random units and around a random origin, [N, D]."""
    n, d, k = sizes
    which = rng.integers(0, k, n)
    centres, shapes = 2 * rng.normal(size=(k, d)), rng.normal(size=(k, d, d))
    points = centres[which] + np.einsum("nij,nj->ni", shapes[which], rng.normal(size=(n, d)))
    return np.exp(rng.uniform(-3, 3, d)) * (points + 10 * rng.normal(size=d))


def counts(rng: Rng, sizes: Sizes) -> np.ndarray:
    """Counts from 0 to hundreds, [N, D], floating point."""
    return rng.poisson(np.exp(rng.uniform(-1, 5, sizes[:2]))).astype(float)


def bits(rng: Rng, sizes: Sizes) -> np.ndarray:
    """Bits [N, D] of unequal frequencies, floating point."""
    return (rng.random(sizes[:2]) < rng.random(sizes[:2])).astype(float)


def letters(rng: Rng, sizes: Sizes) -> np.ndarray:
    """Integers below VALUES, [N]."""
    return rng.integers(0, VALUES, sizes.data)


def words(rng: Rng, sizes: Sizes) -> np.ndarray:
    """Integers below VALUES, [N, D]."""
    return rng.integers(0, VALUES, sizes[:2])


def lines(rng: Rng, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Pairs y [N, D], x [N, INPUTS]: each datum near one of K random planes."""
    n, d, k = sizes
    x, slopes, which = rng.normal(size=(n, INPUTS)), 2 * rng.normal(size=(k, d, INPUTS)), rng.integers(0, k, n)
    return np.einsum("ndp,np->nd", slopes[which], x) + which[:, None] + 0.3 * rng.normal(size=(n, d)), x


def factors(rng: Rng, sizes: Sizes) -> np.ndarray:
    """Points near a K-dimensional plane, with unequal noise, [N, D + 2]."""
    n, d, k = sizes
    noise = np.exp(rng.uniform(-2, 0, d + 2)) * rng.normal(size=(n, d + 2))
    return rng.normal(size=(n, k)) @ (2 * rng.normal(size=(k, d + 2))) + noise + 3


# starts


def spread(ys: np.ndarray) -> np.ndarray:
    """Standard deviations of data [N, D], [D]."""
    return ys.std(0) + 1e-2


def some_rows(rng: Rng, sizes: Sizes, ys: np.ndarray) -> np.ndarray:
    """K of the data, [K, D]."""
    return ys[rng.choice(sizes.data, sizes.components, replace=False)]


def normals(rng: Rng, sizes: Sizes, ys: np.ndarray) -> Normal:
    scale = spread(ys) * np.exp(rng.uniform(-1, 1, (sizes.components, sizes.dims)))
    return Normal(some_rows(rng, sizes, ys), np.log(scale), FLOOR * spread(ys))


def multivariate_normals(covariance_type: str, rng: Rng, sizes: Sizes, ys: np.ndarray) -> MultivariateNormal:
    k, d = sizes.components, sizes.dims
    mean = some_rows(rng, sizes, ys)
    if covariance_type == "spherical":
        variance = np.mean(spread(ys) ** 2) * rng.uniform(0.1, 2, k)
        return MultivariateNormal(mean, -0.5 * np.log(variance), FLOOR * spread(ys).min(), covariance_type)
    shape = rng.normal(size=(d, d) if covariance_type == "tied" else (k, d, d)) / np.sqrt(d)
    covariance = (shape @ np.swapaxes(shape, -1, -2) + 0.1 * np.eye(d)) * spread(ys)[:, None] * spread(ys)
    return MultivariateNormal(mean, precision_root(covariance), FLOOR * spread(ys), covariance_type)


def precision_root(covariance: np.ndarray) -> np.ndarray:
    """`MultivariateNormal.root` of a covariance [..., D, D]."""
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    diagonal = np.diagonal(root, axis1=-2, axis2=-1)
    return np.tril(root, -1) + np.log(diagonal)[..., None] * np.eye(root.shape[-1])


def regressions(spherical: bool, rng: Rng, sizes: Sizes, ys: tuple) -> LinearGaussian:
    k, d = sizes.components, sizes.dims
    log_scale = np.log(spread(ys[0])) + rng.uniform(-1, 1, (k, d))
    floor = FLOOR * spread(ys[0])
    return LinearGaussian(
        rng.normal(size=(k, d, INPUTS)),
        rng.normal(size=(k, d)),
        log_scale[:, 0] if spherical else log_scale,
        ys[1].mean(0),
        floor.min() if spherical else floor,
    )


def coins(rng: Rng, sizes: Sizes, ys: np.ndarray) -> Bernoulli:
    return Bernoulli(rng.uniform(-2, 2, (sizes.components, sizes.dims)))


def rates(rng: Rng, sizes: Sizes, ys: np.ndarray) -> Poisson:
    return Poisson(np.log(ys.mean(0) + 0.1) + 0.5 * rng.normal(size=(sizes.components, sizes.dims)))


def dice(rng: Rng, sizes: Sizes, ys: np.ndarray) -> Categorical:
    return Categorical(rng.normal(size=(sizes.components, VALUES)))


# models


def regression_log_joint(theta: mixture.Theta, z: jax.Array, y: tuple) -> jax.Array:
    """A switching regression: ln P(z, y | x) for a pair (y, x)."""
    return theta.weights.log_prob(z) + jnp.dot(z, theta.components.log_prob(*y), precision=elbo.PRECISION)


def mixture_row(data: Callable, components: Callable, log_joint: Callable = mixture.log_joint) -> Problem:
    """A mixture as a row of the table."""

    def theta(rng, sizes, ys):
        return mixture.Theta(Categorical(0.5 * rng.normal(size=sizes.components)), components(rng, sizes, ys))

    def log_marginal(theta, y):
        per_component = theta.components.log_prob(*(y if isinstance(y, tuple) else (y,)))
        return logsumexp(jax.nn.log_softmax(theta.weights.logits) + per_component)

    def model(sizes):
        return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(sizes.components)))

    return Problem(model, data, theta, log_marginal)


def factor_row(spherical: bool) -> Problem:
    """Factor analysis (diagonal noise) or PPCA (spherical noise) as a row of the table."""

    def theta(rng, sizes, ys):
        scale, floor = spread(ys), FLOOR * spread(ys)
        weights = 0.5 * scale[:, None] * rng.normal(size=(ys.shape[1], sizes.components))
        bias = ys.mean(0) + 0.3 * scale * rng.normal(size=ys.shape[1])
        centre = np.zeros(sizes.components)
        if spherical:
            return factor_analysis.Theta(LinearGaussian(weights, bias, np.log(scale.mean()), centre, floor.min()))
        return factor_analysis.Theta(LinearGaussian(weights, bias, np.log(scale), centre, floor))

    def log_marginal(theta, y):
        f = theta.observation
        covariance = f.weights @ f.weights.T + jnp.diag(f.scale() ** 2)
        return jax.scipy.stats.multivariate_normal.logpdf(y, f.bias, covariance)

    return Problem(lambda sizes: factor_analysis.model(sizes.components), factors, theta, log_marginal)


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

    def theta(rng, sizes, ys):
        return Bits(Bernoulli(rng.uniform(-1, 1, sizes.dims)), Categorical(rng.normal(size=(2, VALUES))))

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
    "factor-analysis": factor_row(False),
    "ppca": factor_row(True),
    "channel": channel(),
}


def without_floor(theta: PyTree) -> PyTree:
    """Theta with the floor of every family that has one at 0."""

    def one(family):
        return replace(family, floor=0 * family.floor) if hasattr(family, "floor") else family

    return jax.tree.map(one, theta, is_leaf=elbo.extend.is_family)
