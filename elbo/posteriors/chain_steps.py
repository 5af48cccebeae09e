"""Chains with a table of transitions for each step, in the probability domain: each pass reads the tables once."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import dynamic_index_in_dim, dynamic_update_index_in_dim

from ..numerics import IMPOSSIBLE, LOG_ZERO
from .chain_factors import factors, floor, least_log, loss, negligible, product, spread
from .chain_log import pairwise_sum
from .chain_path import Path, clean

# The tables are most of the memory: each is made into factors within the loop, and found by its index there. As an
# operand of jax.lax.scan a batch of them would first be copied, time in front.


def log_partition(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln Z, and whether it is known to be right; the forward pass only. O(T K²)."""
    _, _, norms, log_z, _, widest = _forward(potentials, length)
    size = norms.dtype.type(potentials.initial.size)
    return log_z, negligible(floor(potentials.initial) * jnp.sum(loss(norms)) * size * jnp.exp(widest))


def smooth(potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    """(ln Z, marginals), and whether they are known to be right. O(T K²) time, O(T K) memory besides the marginals."""
    emissions, weights, norms, log_z, peaks, _ = _forward(potentials, length)
    least, tables = floor(potentials.initial), potentials.transitions
    alpha = jnp.where(weights > least * norms[:, None], weights / norms[:, None], 0)
    onward = emissions / norms[:, None]

    def step(carry, t):
        after, pairs = carry
        inside = t + 1 < length
        table = _at(tables, t)
        # a NaN counts as 0: in the padding nothing reads it, and elsewhere the forward pass has seen it
        table = jnp.where(table > IMPOSSIBLE, jnp.exp(jnp.clip(table - _at(peaks, t), least_log(table.dtype), 0)), 0)
        after = _at(onward, t + 1) * after
        before = jnp.where(inside, product(after, table, 1), 1)
        joint = _at(alpha, t) * before
        # rounding makes the sums drift from 1 in a long chain
        scaled = jnp.where(inside, _at(alpha, t) / jnp.sum(joint), 0)
        both = scaled[:, None] * table * jnp.where(inside, after, 0)
        return (before, dynamic_update_index_in_dim(pairs, both, t, 0)), before

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    start = end, jnp.zeros_like(tables) + 0 * end[0]
    (_, pairs), beta = jax.lax.scan(step, start, jnp.arange(len(tables)), reverse=True)
    beta = jnp.concatenate([beta, end[None]])
    inside = (jnp.arange(norms.size) < length)[:, None]
    lost = least * jnp.sum(jnp.where(inside, loss(norms)[:, None] * beta, 0))
    joint = alpha * beta
    states = jnp.where(inside, joint / jnp.sum(joint, axis=1, keepdims=True), 0)
    return (log_z, Path(states[0], pairs, states)), negligible(lost)


def _forward(potentials: Path, length: jax.Array) -> tuple[Any, ...]:
    """Emissions [T, K] as factors, c α [T, K], c [T], ln Z, each step's maximum, and the largest `spread` of a step."""
    initial, _, states = clean(potentials, length)
    least, tables = floor(initial), potentials.transitions
    first, top = factors(initial + states[0], (0,))
    emissions, tops = factors(states, (1,))

    def step(before, t):
        weights, norm = before
        # the junk of the padding is computed, and left out of all that comes of it
        table = jnp.maximum(_at(tables, t), LOG_ZERO)
        transition, peak = factors(table, (0, 1))
        after = product(jnp.maximum(weights * (1 / norm), least), transition, 0) * _at(emissions, t + 1)
        after, norm, *facts = (
            jnp.where(t + 1 < length, a, b)
            for a, b in ((after, weights), (jnp.sum(after), 1), (peak, 0), (spread(table), 0))
        )
        return (after, norm), (after, norm, *facts)

    norm = jnp.sum(first)
    _, (rest, norms, peaks, spreads) = jax.lax.scan(step, (first, norm), jnp.arange(len(tables)))
    norms = jnp.concatenate([norm[None], norms])
    # in the padding all these are 0
    log_z = top[0] + pairwise_sum(tops[1:, 0] + peaks[:, 0, 0]) + pairwise_sum(jnp.log(norms))
    return emissions, jnp.concatenate([first[None], rest]), norms, log_z, peaks, jnp.max(spreads, initial=0)


def _at(x: jax.Array, t: jax.Array) -> jax.Array:
    return dynamic_index_in_dim(x, t, keepdims=False)
