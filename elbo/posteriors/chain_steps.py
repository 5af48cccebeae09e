"""Chains with a table of transitions for each step, in the probability domain."""

import jax
import jax.numpy as jnp
from jax.lax import dynamic_index_in_dim

from ..numerics import IMPOSSIBLE, LOG_ZERO
from .chain_factors import factors, floor, least_log, loss, negligible, product, spread
from .chain_log import pairwise_sum
from .chain_path import Path, clean, steps_mask

# The tables are most of the memory: each is made into factors within the loop, and found by its index there. As an
# operand of jax.lax.scan a batch of them would first be copied, time in front.


def log_partition(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln Z, and whether it is known to be right; the forward pass only. O(T K²)."""
    _, _, norms, log_z, _ = _forward(potentials, length)
    size = norms.dtype.type(potentials.initial.size)
    tables = jnp.maximum(potentials.transitions, LOG_ZERO)
    widest = jnp.max(jnp.where(_inside(tables, length), jax.vmap(spread)(tables), 0), initial=0)
    return log_z, negligible(floor(potentials.initial) * jnp.sum(loss(norms)) * size * jnp.exp(widest))


def smooth(potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    """(ln Z, marginals), and whether they are known to be right. O(T K²) time, O(T K) memory besides the marginals."""
    emissions, weights, norms, log_z, peaks = _forward(potentials, length)
    least, tables = floor(potentials.initial), potentials.transitions
    alpha = jnp.where(weights > least * norms[:, None], weights / norms[:, None], 0)
    onward = emissions / norms[:, None]

    def step(after, t):
        after = _at(onward, t + 1) * after
        before = jnp.where(t + 1 < length, product(after, _relative(_at(tables, t), _at(peaks, t)), 1), 1)
        return before, (before, after)

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    _, (beta, after) = jax.lax.scan(step, end, jnp.arange(len(tables)), reverse=True)
    beta = jnp.concatenate([beta, end[None]])
    inside = jnp.arange(norms.size) < length
    lost = least * jnp.sum(jnp.where(inside, loss(norms) * jnp.sum(beta, axis=1), 0))
    joint = alpha * beta
    # rounding makes the sums drift from 1 in a long chain
    per_total = jnp.where(inside, 1 / jnp.sum(joint, axis=1), 0)
    states = joint * per_total[:, None]
    before = alpha[:-1] * jnp.where(inside[1:], per_total[:-1], 0)[:, None]
    pairs = before[:, :, None] * _relative(tables, peaks) * jnp.where(inside[1:, None], after, 0)[:, None, :]
    return (log_z, Path(states[0], pairs, states)), negligible(lost)


def _relative(tables: jax.Array, peaks: jax.Array) -> jax.Array:
    """Tables as factors; a NaN counts as 0, for in the padding nothing reads it, and elsewhere it is in the maximum."""
    return jnp.where(tables > IMPOSSIBLE, jnp.exp(jnp.clip(tables - peaks, least_log(tables.dtype), 0)), 0)


def _forward(potentials: Path, length: jax.Array) -> tuple[jax.Array, ...]:
    """Emissions [T, K] as factors, c α [T, K], c [T], ln Z, and each step's maximum, [T-1, 1, 1]."""
    initial, _, states = clean(potentials, length)
    least, tables = floor(initial), potentials.transitions
    first, top = factors(initial + states[0], (0,))
    emissions, tops = factors(states, (1,))
    peaks = jnp.maximum(jnp.max(tables, axis=(1, 2)), LOG_ZERO)
    peaks = jnp.where(_inside(tables, length), peaks, 0)[:, None, None]

    def step(before, t):
        weights, norm = before
        # the junk of the padding is computed, and left out of all that comes of it
        transition = _relative(_at(tables, t), _at(peaks, t))
        after = product(jnp.maximum(weights * (1 / norm), least), transition, 0) * _at(emissions, t + 1)
        inside = t + 1 < length
        after, norm = jnp.where(inside, after, weights), jnp.where(inside, jnp.sum(after), 1)
        return (after, norm), (after, norm)

    norm = jnp.sum(first)
    _, (rest, norms) = jax.lax.scan(step, (first, norm), jnp.arange(len(tables)))
    norms = jnp.concatenate([norm[None], norms])
    # in the padding all these are 0
    log_z = top[0] + pairwise_sum(tops[1:, 0] + peaks[:, 0, 0]) + pairwise_sum(jnp.log(norms))
    return emissions, jnp.concatenate([first[None], rest]), norms, log_z, peaks


def _inside(tables: jax.Array, length: jax.Array) -> jax.Array:
    return steps_mask(len(tables) + 1, length)


def _at(x: jax.Array, t: jax.Array) -> jax.Array:
    return dynamic_index_in_dim(x, t, keepdims=False)
