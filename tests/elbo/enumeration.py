"""P(z) ∝ exp⟨potentials, z⟩ by the list of all z, in numpy float64: what every discrete posterior has to equal."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO

IMPOSSIBLE = 1e-6 * LOG_ZERO


class Values(NamedTuple):
    found: Any  # every z as `best` tells it, int [S, ...]; None where there is no `best`
    z: list  # every z as an indicator, an array [S, ...] for each of the potentials


class Enumerated(NamedTuple):
    p: np.ndarray  # [S]
    log_partition: float
    mean: list
    entropy: float
    best: int  # the place of the most probable z
    score: float


def potentials(q) -> dict:
    """The arrays of log potentials by name, in the order of the leaves of z."""
    arrays = {f.name: getattr(q, f.name) for f in dataclasses.fields(q)}
    return {n: a for n, a in arrays.items() if a is not None and jnp.issubdtype(jnp.result_type(a), jnp.floating)}


def with_potentials(q, arrays):
    """The same posterior with other potentials."""
    return dataclasses.replace(q, **dict(zip(potentials(q), arrays, strict=True)))


def in_float32(q):
    """The same posterior with potentials in float32."""
    return with_potentials(q, [jnp.asarray(a, jnp.float32) for a in potentials(q).values()])


def stack(posteriors):
    """A batch of posteriors of one shape."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *posteriors)


def take(tree, i):
    """One of a batch."""
    return jax.tree.map(lambda a: a[i], tree)


def flat(arrays, count=None) -> np.ndarray:
    """The leaves of a pytree in one vector; or, of so many pytrees on a leading axis, in a row for each."""
    leaves = [np.asarray(a, np.float64) for a in jax.tree.leaves(arrays)]
    if count is None:
        return np.concatenate([a.ravel() for a in leaves])
    return np.concatenate([a.reshape(count, math.prod(a.shape[1:])) for a in leaves], 1)


def clean(q) -> np.ndarray:
    """All potentials in one vector: 0 in the padding, `LOG_ZERO` for −∞."""
    theta = flat(list(potentials(q).values()))
    return np.maximum(np.where(np.isnan(theta), 0, theta), LOG_ZERO)


def enumerate_values(q, z) -> Enumerated:
    """Everything about a posterior from the list of its z; zeros and −∞ if none is possible."""
    count = len(z[0])
    weights = flat(z, count) @ clean(q)
    top = weights.max(initial=LOG_ZERO)
    if top <= IMPOSSIBLE:
        return Enumerated(np.zeros(count), -np.inf, [np.zeros(a.shape[1:]) for a in z], -np.inf, 0, -np.inf)
    log_z = np.log(np.exp(weights - top).sum()) + top
    p = np.exp(weights - log_z)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1)))
    return Enumerated(p, log_z, [np.tensordot(p, a, 1) for a in z], entropy, int(weights.argmax()), top)


def derivatives(q, z, along: np.ndarray) -> dict:
    """Of ln Z and of ln Z + 2 H + 3 ln P(best z) + Σ along · mean², and of their gradients in the direction `along`."""
    truth, rows, theta = enumerate_values(q, z), flat(z, len(z[0])), clean(q)
    theta, p, mean = np.where(theta <= IMPOSSIBLE, 0, theta), truth.p, flat(truth.mean)
    off = rows - mean
    covariance = lambda v: (p * (off @ v)) @ off
    inner = 2 * along * mean - 2 * theta
    bent = covariance(along)
    slopes = mean + 3 * off[truth.best] + covariance(inner)
    curvature = (p * (off @ inner) * (off @ along)) @ off + covariance(2 * along * bent - 2 * along) - 2 * bent
    return {"covariance": bent, "slopes": slopes, "slope": slopes @ along, "curvature": curvature}
