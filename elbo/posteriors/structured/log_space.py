"""Sums over all z in log space, a frame at a time: what their scales add up to, and the way back of the best z."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..._types import PyTree
from ...numerics import IMPOSSIBLE, LOG_ZERO, all_finite


def relative(weights: PyTree) -> tuple[PyTree, jax.Array]:
    """Log weights relative to the largest of them, and that one; what no path reaches stays at `LOG_ZERO`.

    A float32 so keeps its digits however long the sequence. No derivative flows through the largest.

    >>> relative(jnp.array([1.0, 3.0]))[0].tolist()
    [-2.0, 0.0]
    """
    peaks = [jnp.max(w) for w in jax.tree.leaves(weights)]
    peak = jax.lax.stop_gradient(peaks[0] if len(peaks) == 1 else jnp.max(jnp.stack(peaks)))
    return jax.tree.map(lambda w: jnp.maximum(w - peak, LOG_ZERO), weights), peak


def pairwise_sum(x: jax.Array) -> jax.Array:
    """Σ x of a vector as a sum of √T sums: the rounding errors of a float32 stay small for T of any size."""
    width = max(1, round(x.size**0.5))
    return jnp.sum(jnp.sum(jnp.pad(x, (0, -x.size % width)).reshape(-1, width), axis=0))


def settle(log_z: jax.Array) -> jax.Array:
    """ln Z, which is `LOG_ZERO` where no path is possible, and then no gradient flows; NaN for +∞."""
    return jnp.where(log_z <= IMPOSSIBLE, LOG_ZERO, jnp.where(log_z == jnp.inf, jnp.nan, log_z))


def settled_score(score: jax.Array, potentials: PyTree) -> jax.Array:
    """The log potential of a best path, in the same way; NaN if any potential is no number."""
    return jnp.where(all_finite(potentials), settle(score), jnp.nan)


def trace(last: jax.Array, choose: Callable, xs: PyTree, inside: jax.Array) -> jax.Array:
    """States [T] from the last one backwards, z_t = choose(z_{t+1}, x_t); −1 in the padding. inside: bool [T-1]."""

    def step(state, x):
        x, counts = x
        return jnp.where(counts, choose(state, x), state), jnp.where(counts, state, -1)

    first, rest = jax.lax.scan(step, last, (xs, inside), reverse=True)
    return jnp.concatenate([first[None], rest]).astype(jnp.int32)
