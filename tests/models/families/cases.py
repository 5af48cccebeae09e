"""One table of families: random parameters and data; densities, statistics and estimates by hand in numpy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from elbo.models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson
from elbo.models.families._estimate import weighted_statistics as sum_statistics

D, P, V = 3, 2, 4


@dataclass(frozen=True)
class Case:
    """How one family is tested. Data are tuples of arrays with a leading axis N, the arguments of log_prob.

    Attributes:
      create: (rng, batch) -> family with random parameters.
      data: (rng, N) -> data.
      log_density: (family, index of one component, *data) -> ln p by scipy, [N].
      statistics: (family, weights [N, *batch], *data) -> Σ w T, a tuple in the order of the family's own statistics.
      parameters: family -> what `fit` estimates, as numpy arrays.
      fit: (weights [N, *batch], *data) -> the same, by weighted maximum likelihood.
      sigma: reference of batch shape () -> (weights, *data), a few data with E T of the reference.
      expectation: family -> E[draw], [*batch, ...].
      carrier: data -> the part of ln p that has no parameters in it, [N].
    """

    create: Callable
    data: Callable
    log_density: Callable
    statistics: Callable
    parameters: Callable
    fit: Callable
    sigma: Callable
    expectation: Callable
    carrier: Callable = lambda *data: np.zeros(len(data[0]))


def draw(family: Any, key: jax.Array) -> tuple:
    """One datum per component, with x ~ N(centre, I) for a regression."""
    if not isinstance(family, LinearGaussian):
        return (family.sample(key),)
    key, key_x = jax.random.split(key)
    x = family.centre + jax.random.normal(key_x, family.centre.shape, family.centre.dtype)
    return family.sample(key, x), x


@jax.jit
def log_probs(family: Any, *data: jax.Array) -> jax.Array:
    """ln p of a batch of data, [N, *batch]."""
    return jax.vmap(family.log_prob)(*data)


weighted_statistics = jax.jit(sum_statistics)


@jax.jit
def maximize(family: Any, statistics: Any, prior: Any = None) -> Any:
    """The M step."""
    return family.maximize(statistics if prior is None else jax.tree.map(jnp.add, statistics, prior.statistics(family)))


def estimate(family: Any, weights: jax.Array, *data: jax.Array, rounds: int = 1) -> Any:
    """The family fitted to weighted data, each round in the coordinates of the last."""
    for _ in range(rounds):
        family = maximize(family, weighted_statistics(family, weights, *data))
    return family


def numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def wsum(weights, *terms):
    """Σ_n w_n ⊗ terms_n: terms [N, *batch, i] make axes i, j, ... of the answer; [*batch] without terms."""
    letters = "ij"[: len(terms)]
    operands = ",".join(["n...", *(f"n...{i}" for i in letters)])
    return np.einsum(f"{operands}->...{letters}", weights, *terms)


def spread(x, weights):
    """Data [N, D] as [N, *batch, D]."""
    return np.broadcast_to(x.reshape(len(x), *(1,) * (weights.ndim - 1), -1), (*weights.shape, x.shape[-1]))


def mean_and_covariance(weights, x):
    x = spread(x, weights)
    mean = wsum(weights, x) / wsum(weights)[..., None]
    return mean, wsum(weights, x - mean, x - mean) / wsum(weights)[..., None, None]


def diagonal(a):
    return np.diagonal(a, axis1=-2, axis2=-1)


def indicator(x):
    return np.eye(V)[x] if np.issubdtype(x.dtype, np.integer) else x


def categorical(as_indicator: bool) -> Case:
    def data(rng, n):
        x = np.arange(n) % V
        return (np.eye(V)[x],) if as_indicator else (x,)

    def sigma(reference):
        return (numpy(reference.probabilities()), *data(None, V))

    def fit(weights, x):
        return {"probabilities": wsum(weights, spread(indicator(x), weights)) / wsum(weights)[..., None]}

    return Case(
        lambda rng, batch: Categorical.create(rng.dirichlet(np.ones(V), batch)),
        data,
        lambda f, i, x: scipy.stats.multinomial(1, numpy(f.probabilities())[i]).logpmf(indicator(x)),
        lambda f, w, x: (wsum(w, spread(indicator(x), w)),),
        lambda f: {"probabilities": numpy(f.probabilities())},
        fit,
        sigma,
        lambda f: numpy(f.probabilities()) @ np.arange(V),
    )


def bernoulli() -> Case:
    def fit(weights, x):
        return {"probabilities": wsum(weights, spread(x, weights)) / wsum(weights)[..., None]}

    return Case(
        lambda rng, batch: Bernoulli.create(rng.uniform(0.1, 0.9, (*batch, D))),
        lambda rng, n: (rng.integers(0, 2, (n, D)).astype(float),),
        lambda f, i, x: scipy.stats.bernoulli(numpy(f.probabilities())[i]).logpmf(x).sum(-1),
        lambda f, w, x: (wsum(w, spread(1 - x, w)), wsum(w, spread(x, w))),
        lambda f: {"probabilities": numpy(f.probabilities())},
        fit,
        lambda reference: (np.ones(1), numpy(reference.probabilities())[None]),
        lambda f: numpy(f.probabilities()),
    )


def poisson(exposed: bool = False) -> Case:
    """Counts; exposed: data are (x, offset), an exposure for each entry."""

    def exposure(x, offset):
        return np.exp(offset[0]) if offset else np.ones_like(x)

    def data(rng, n):
        x = rng.poisson(rng.uniform(0.5, 40, (n, D))).astype(float)
        return (x, rng.uniform(-2, 2, (n, D))) if exposed else (x,)

    def log_density(f, i, x, *offset):
        return scipy.stats.poisson(numpy(f.rate())[i] * exposure(x, offset)).logpmf(x).sum(-1)

    def summed(f, weights, x, *offset):
        return wsum(weights, spread(exposure(x, offset), weights)), wsum(weights, spread(x, weights))

    def fit(weights, x, *offset):
        watched, total = summed(None, weights, x, *offset)
        return {"rate": total / watched}

    def sigma(reference):
        data = numpy(reference.rate())[None]
        return (np.ones(1), data, np.zeros_like(data)) if exposed else (np.ones(1), data)

    return Case(
        lambda rng, batch: Poisson.create(rng.uniform(0.5, 30, (*batch, D))),
        data,
        log_density,
        summed,
        lambda f: {"rate": numpy(f.rate())},
        fit,
        sigma,
        lambda f: numpy(f.rate()),
        lambda x, *offset: (x * np.log(exposure(x, offset)) - scipy.special.gammaln(x + 1)).sum(-1),
    )


def gaussian_data(rng, n):
    return (rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) + rng.normal(size=D),)


def axes(mean, covariance):
    """2D points of equal weight with the given mean and covariance."""
    offsets = np.sqrt(len(mean)) * np.linalg.cholesky(covariance).T
    return np.full(2 * len(mean), 0.5 / len(mean)), np.concatenate([mean + offsets, mean - offsets])


def normal() -> Case:
    def summed(f, w, x):
        u = (spread(x, w) - numpy(f.mean)) / numpy(f.scale())
        return wsum(w), wsum(w, u), diagonal(wsum(w, u, u)), wsum(w)

    def fit(weights, x):
        mean, square = mean_and_covariance(weights, x)
        return {"mean": mean, "scale": np.sqrt(diagonal(square))}

    return Case(
        lambda rng, batch: Normal.create(rng.normal(size=(*batch, D)), rng.uniform(0.5, 2, (*batch, D))),
        gaussian_data,
        lambda f, i, x: scipy.stats.norm(numpy(f.mean)[i], numpy(f.scale())[i]).logpdf(x).sum(-1),
        summed,
        lambda f: {"mean": numpy(f.mean), "scale": numpy(f.scale())},
        fit,
        lambda reference: axes(numpy(reference.mean), np.diag(numpy(reference.scale()) ** 2)),
        lambda f: numpy(f.mean),
    )


# compiled once: a loop is compiled anew at every call outside jit
create_full = jax.jit(MultivariateNormal.create, static_argnames="covariance_type")
covariance = jax.jit(lambda f: f.covariance())
whitener = jax.jit(lambda f: f.whitener())


def multivariate_normal(kind: str) -> Case:
    def create(rng, batch):
        root = rng.normal(size=(*(() if kind == "tied" else batch), D, D))
        square = root @ np.swapaxes(root, -1, -2) + 0.5 * np.eye(D)
        square = square[..., 0, 0] if kind == "spherical" else square
        return create_full(rng.normal(size=(*batch, D)), square, covariance_type=kind)

    def covariances(f):
        return np.broadcast_to(numpy(covariance(f)), (*f.batch_shape, f.event_size, f.event_size))

    def summed(f, w, x):
        u = np.einsum("...ij,n...j->n...i", numpy(whitener(f)), spread(x, w) - numpy(f.mean))
        second = wsum(w, u, u)
        if kind == "spherical":
            second = np.trace(second, axis1=-2, axis2=-1)
        if kind == "tied":
            second = second.sum(tuple(range(second.ndim - 2)))
        return wsum(w), wsum(w, u), second, wsum(w)

    def fit(weights, x):
        mean, square = mean_and_covariance(weights, x)
        if kind == "spherical":
            square = diagonal(square).mean(-1)[..., None, None] * np.eye(square.shape[-1])
        if kind == "tied":
            total = wsum(weights)[..., None, None]
            pooled = (total * square).reshape(-1, *square.shape[-2:]).sum(0) / total.sum()
            square = np.broadcast_to(pooled, square.shape)
        return {"mean": mean, "covariance": square}

    return Case(
        create,
        gaussian_data,
        lambda f, i, x: scipy.stats.multivariate_normal(numpy(f.mean)[i], covariances(f)[i]).logpdf(x),
        summed,
        lambda f: {"mean": numpy(f.mean), "covariance": covariances(f)},
        fit,
        lambda reference: axes(numpy(reference.mean), covariances(reference)),
        lambda f: numpy(f.mean),
    )


def linear_gaussian(spherical: bool) -> Case:
    def create(rng, batch):
        return LinearGaussian.create(
            rng.normal(size=(*batch, D, P)),
            rng.normal(size=(*batch, D)),
            rng.uniform(0.5, 2, batch if spherical else (*batch, D)),
            centre=np.array([0.5, -1.0]),
        )

    def data(rng, n):
        x = rng.normal(size=(n, P)) @ rng.normal(size=(P, P)) + rng.normal(size=P)
        return x @ rng.normal(size=(P, D)) + rng.normal(size=D) + rng.normal(size=(n, D)), x

    def mean(f, x):
        """E[y | x], [N, *batch, D]."""
        return np.einsum("...dp,np->n...d", numpy(f.weights), x - numpy(f.centre)) + numpy(f.bias)

    def summed(f, w, y, x):
        r = (spread(y, w) - mean(f, x)) / numpy(f.scale())
        design = spread(np.column_stack([np.ones(len(x)), x - numpy(f.centre)]), w)
        second = diagonal(wsum(w, r, r))
        return wsum(w, design, design), wsum(w, design, r), second.sum(-1) if spherical else second, wsum(w)

    def fit(weights, y, x):
        # numpy's least squares, component by component
        design = np.column_stack([np.ones(len(x)), x])
        flat = weights.reshape(len(x), -1).T
        found = [np.linalg.lstsq(design * np.sqrt(w)[:, None], y * np.sqrt(w)[:, None])[0] for w in flat]
        squares = [w @ (y - design @ b) ** 2 / w.sum() for w, b in zip(flat, found, strict=True)]
        squares = [np.full_like(s, s.mean()) for s in squares] if spherical else squares
        batch = weights.shape[1:]
        return {
            "coefficients": np.reshape(found, (*batch, *found[0].shape)),
            "scale": np.sqrt(squares).reshape(*batch, -1),
        }

    def parameters(f):
        # of y = (1, x) · coefficients, free of the centre
        bias = mean(f, np.zeros((1, P)))[0]
        coefficients = np.concatenate([bias[..., None, :], np.swapaxes(numpy(f.weights), -1, -2)], -2)
        return {"coefficients": coefficients, "scale": numpy(f.scale())}

    def sigma(reference):
        square = np.diag(np.append(np.ones(P), numpy(reference.scale()) ** 2))
        weights, points = axes(np.append(numpy(reference.centre), np.zeros(D)), square)
        x, noise = points[:, :P], points[:, P:]
        return weights, mean(reference, x) + noise, x

    return Case(
        create,
        data,
        lambda f, i, y, x: scipy.stats.norm(mean(f, x)[(slice(None), *i)], numpy(f.scale())[i]).logpdf(y).sum(-1),
        summed,
        parameters,
        fit,
        sigma,
        lambda f: mean(f, numpy(f.centre)[None])[0],
    )


def weighted(case: Case) -> Case:
    """Gaussians of data whose last argument is their weight: the covariance of a datum is divided by it."""

    def narrowed(f, w):
        if not hasattr(f, "root"):
            return replace(f, log_scale=f.log_scale - 0.5 * np.log(w))
        eye = np.eye(D)
        return replace(f, root=numpy(f.root) * (eye + (1 - eye) * np.sqrt(w)) + 0.5 * np.log(w) * eye)

    def log_density(f, i, *data):
        *data, w = data
        value = np.empty(len(w))
        for one in np.unique(w):
            value[w == one] = case.log_density(narrowed(f, one), i, *(a[w == one] for a in data))
        return value

    def scaled(weights, w):
        return weights * w.reshape(-1, *(1,) * (weights.ndim - 1))

    def summed(f, weights, *data):
        *statistics, _ = case.statistics(f, scaled(weights, data[-1]), *data[:-1])
        return *statistics, wsum(weights)

    def fit(weights, *data):
        found = case.fit(scaled(weights, data[-1]), *data[:-1])
        ratio = wsum(scaled(weights, data[-1])), wsum(weights)
        if "covariance" in found:  # tied
            return found | {"covariance": found["covariance"] * ratio[0].sum() / ratio[1].sum()}
        return found | {"scale": found["scale"] * np.sqrt(ratio[0] / ratio[1])[..., None]}

    return replace(
        case,
        data=lambda rng, n: (*case.data(rng, n), rng.choice([0.3, 1.0, 4.0], n)),
        log_density=log_density,
        statistics=summed,
        fit=fit,
        sigma=lambda reference: (s := case.sigma(reference)) + (np.ones(len(s[0])),),
        carrier=lambda *data: 0.5 * D * np.log(data[-1]),
    )


CASES = {
    "categorical": categorical(as_indicator=False),
    "categorical-indicator": categorical(as_indicator=True),
    "bernoulli": bernoulli(),
    "poisson": poisson(),
    "poisson-exposed": poisson(exposed=True),
    "normal": normal(),
    "full": multivariate_normal("full"),
    "tied": multivariate_normal("tied"),
    "spherical": multivariate_normal("spherical"),
    "regression": linear_gaussian(spherical=False),
    "regression-spherical": linear_gaussian(spherical=True),
    "normal-weighted": weighted(normal()),
    "tied-weighted": weighted(multivariate_normal("tied")),
    "regression-weighted": weighted(linear_gaussian(spherical=False)),
}
# without those that differ in log_prob alone
PLAIN = {name: case for name, case in CASES.items() if not name.endswith(("-weighted", "-exposed"))}
GAUSSIAN = ["normal", "full", "tied", "spherical", "regression", "regression-spherical"]
FIXED = {"floor", "centre"}


def cast(tree: Any, dtype: Any) -> Any:
    """The floating-point arrays of a tree in another type."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype if jnp.issubdtype(jnp.result_type(a), jnp.floating) else None), tree
    )
