"""Chains in the probability domain, one table of transitions for all steps: as fast as matrix products."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..numerics import IMPOSSIBLE, LOG_ZERO, PRECISION
from .chain_factors import factors as as_factors
from .chain_factors import floor, least_log, loss, negligible, product, spread
from .chain_log import pairwise_sum
from .chain_path import Path, clean, steps_mask


class Scaled(NamedTuple):
    """Potentials as factors: initial, transitions and states <= 1, and the log of what was taken out, a scalar."""

    initial: jax.Array
    transitions: jax.Array
    states: jax.Array
    log_scale: jax.Array


def log_partition(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln Z, and whether it is known to be right; the forward pass only. O(T K²)."""
    factors = scale(potentials, length)
    _, norms = forward(factors, length)
    size = norms.dtype.type(potentials.initial.size)
    widest = spread(jnp.maximum(potentials.transitions, LOG_ZERO))
    lost = floor(potentials.initial) * jnp.sum(loss(norms)) * size * jnp.exp(widest)
    return factors.log_scale + pairwise_sum(jnp.log(norms)), negligible(lost)


def smooth(potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    """(ln Z, marginals), and whether they are known to be right. O(T K²) time, O(T K) memory besides the marginals."""
    factors = scale(potentials, length)
    weights, norms = forward(factors, length)
    onward = factors.states / norms[:, None]
    beta = backward(factors, onward, length)
    inside = jnp.arange(norms.size) < length
    lost = floor(potentials.initial) * jnp.sum(jnp.where(inside[:, None], loss(norms)[:, None] * beta, 0))
    log_z = factors.log_scale + pairwise_sum(jnp.log(norms))

    # states at the floor are there for the bound only; rounding makes the sums drift from 1 in a long chain
    weights = jnp.where(weights > floor(potentials.initial) * norms[:, None], weights, 0)
    joint = weights * beta
    per_total = jnp.where(inside, 1 / jnp.sum(joint, axis=1), 0)
    states = joint * per_total[:, None]
    before = weights[:-1] * jnp.where(inside[1:], per_total[:-1], 0)[:, None]
    after = (onward * beta)[1:]
    transitions = jnp.einsum("ti,tj->ij", before, after, precision=PRECISION) * factors.transitions
    return (log_z, Path(states[0], transitions, states)), negligible(lost)


def scale(potentials: Path, length: jax.Array) -> Scaled:
    """Potentials as factors, 1 in the padding; the initial one holds the first frame as well."""
    initial, transitions, _ = clean(potentials, length)
    states = potentials.states
    first, top = as_factors(initial + jnp.maximum(states[0], LOG_ZERO), (0,))
    pairs, peaks = as_factors(transitions, (0, 1))
    # cleaned as they are read, so that no clean copy has to be written
    tops = jnp.maximum(jnp.max(states, axis=1, keepdims=True), LOG_ZERO)
    emissions = jnp.exp(jnp.maximum(states - tops, least_log(states.dtype)))
    inside = (jnp.arange(len(states)) < length)[:, None]
    emissions = jnp.where(inside, jnp.where(states <= IMPOSSIBLE, 0, emissions), 1)
    log_scale = top[0] + pairwise_sum(jnp.where(inside[1:, 0], tops[1:, 0] + peaks[0, 0], 0))
    return Scaled(first, pairs, emissions, log_scale)


def forward(factors: Scaled, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Filtered probabilities before they are divided by their sums, c α [T, K], and c [T], 1 in the padding."""
    least = floor(factors.initial)

    def step(before, emission):
        weights, norm = before
        # divided only now: so one step of the loop waits for one reduction, not for two
        after = product(jnp.maximum(weights * (1 / norm), least), factors.transitions, 0) * emission
        norm = jnp.sum(after)
        return (after, norm), (after, norm)

    norm = jnp.sum(factors.initial)
    _, (rest, norms) = jax.lax.scan(step, (factors.initial, norm), factors.states[1:])
    norms = jnp.where(steps_mask(len(factors.states), length), norms, 1)
    return jnp.concatenate([factors.initial[None], rest]), jnp.concatenate([norm[None], norms])


def backward(factors: Scaled, onward: jax.Array, length: jax.Array) -> jax.Array:
    """β [T, K] from onward = E / c [T, K]; 1 from the last frame on."""

    def step(after, x):
        weights, counts = x
        before = jnp.where(counts, product(after * weights, factors.transitions, 1), 1)
        return before, before

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    xs = (onward[1:], steps_mask(len(onward), length))
    _, beta = jax.lax.scan(step, end, xs, reverse=True)
    return jnp.concatenate([beta, end[None]])
