"""Chains in the probability domain, one table of transitions for all steps: as fast as matrix products."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ...numerics import IMPOSSIBLE, LOG_ZERO, PRECISION
from ..structured.batching import by_batch_size
from ..structured.frames import steps_mask
from ..structured.log_space import pairwise_sum
from ..structured.rescaling import least_log
from . import low_latency
from .factors import Factors, Filtered, as_factors, floor, largest_difference, loss, per_total, product, verdict
from .path import Path, clean
from .reach import where_reached


def log_partition(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln Z, and whether it is known to be right; the forward pass only. O(T K²)."""
    return _by_size(_log_partition, potentials)(potentials, length)


def smooth(potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    """(ln Z, marginals), and whether they are known to be right. O(T K²) time, O(T K) memory besides the marginals."""
    return _by_size(_smooth, potentials)(potentials, length)


def _by_size(f: Callable, potentials: Path) -> Callable:
    many = partial(f, (forward, backward))
    if potentials.initial.size > low_latency.STATES:
        return many
    return by_batch_size(partial(f, (low_latency.forward, low_latency.backward)), many, low_latency.CHAINS)


def _log_partition(passes: tuple, potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    factors = scale(potentials, length)
    filtered = passes[0](factors, length)
    size = filtered.norms.dtype.type(potentials.initial.size)
    widest = largest_difference(jnp.maximum(potentials.transitions, LOG_ZERO))
    lost = floor(potentials.initial) * jnp.sum(loss(filtered.norms, filtered.floors)) * size * jnp.exp(widest)
    log_z = factors.log_scale + pairwise_sum(jnp.log(filtered.norms))
    _, arrives = where_reached((), potentials, length)
    return verdict(log_z, lost, factors.log_scale, factors.possible & arrives)


def _smooth(passes: tuple, potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    factors = scale(potentials, length)
    weights, norms, floors, cuts = passes[0](factors, length)
    onward = factors.states * (1 / norms)[:, None]
    beta = passes[1](factors, onward, length)
    inside = jnp.arange(norms.size) < length
    each = loss(norms, jnp.maximum(floors, 1)) * jnp.sum(beta, axis=1)
    lost = floor(potentials.initial) * jnp.sum(jnp.where(inside, each, 0))
    log_z = factors.log_scale + pairwise_sum(jnp.log(norms))

    # what lies below the cut, or where no path leads, is there for the bound only
    weights, arrives = where_reached(weights, potentials, length)
    weights, possible = jnp.where(weights > cuts[:, None], weights, 0), factors.possible & arrives
    joint = weights * beta
    shares = per_total(joint, inside, factors.log_scale)
    states = jnp.where((inside & possible)[:, None], jnp.minimum(joint * shares[:, None], 1), 0)
    before = weights[:-1] * jnp.where(inside[1:], shares[:-1], 0)[:, None]
    after = (onward * beta)[1:]
    transitions = jnp.einsum("ti,tj->ij", before, after, precision=PRECISION) * factors.transitions
    transitions = jnp.where(possible, transitions, 0)
    log_z, right = verdict(log_z, lost, factors.log_scale, possible)
    return (log_z, Path(states[0], transitions, states)), right


def scale(potentials: Path, length: jax.Array) -> Factors:
    """Potentials as factors, 1 in the padding; the initial one holds the first frame as well."""
    initial, transitions, _ = clean(potentials, length)
    states = potentials.states
    first, top = as_factors(initial + jnp.maximum(states[0], LOG_ZERO), (0,))
    pairs, peaks = as_factors(transitions, (0, 1))
    # cleaned as they are read, so that no clean copy has to be written; in the padding every number is above −∞
    inside = jnp.arange(len(states)) < length
    tops = jnp.maximum(jnp.max(states, axis=1), LOG_ZERO)
    below = states - jnp.where(inside, tops, -jnp.inf)[:, None]
    emissions = jnp.exp(jnp.where(below < 0, jnp.maximum(below, least_log(states.dtype)), 0))
    emissions = jnp.where(~(states < jnp.where(inside, IMPOSSIBLE, -jnp.inf)[:, None]), emissions, 0)
    log_scale = top[0] + pairwise_sum(jnp.where(inside[1:], tops[1:] + peaks[0, 0], 0))
    return Factors(first, pairs, emissions, log_scale, ~(log_scale <= IMPOSSIBLE))


def forward(factors: Factors, length: jax.Array) -> Filtered:
    """Each frame is divided by its own sum."""
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
    weights, norms = jnp.concatenate([factors.initial[None], rest]), jnp.concatenate([norm[None], norms])
    return Filtered(weights, norms, jnp.ones_like(norms), least * norms)


def backward(factors: Factors, onward: jax.Array, length: jax.Array) -> jax.Array:
    """β [T, K] from onward = E / c [T, K]; 1 from the last frame on."""

    def step(after, x):
        weights, counts = x
        before = jnp.where(counts, product(after * weights, factors.transitions, 1), 1)
        return before, before

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    xs = (onward[1:], steps_mask(len(onward), length))
    _, beta = jax.lax.scan(step, end, xs, reverse=True)
    return jnp.concatenate([beta, end[None]])
