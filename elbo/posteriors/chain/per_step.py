"""Chains with a table of transitions for each step, in the probability domain."""

import jax
import jax.numpy as jnp

from ...numerics import IMPOSSIBLE, LOG_ZERO
from ..structured.batching import fallback_together
from ..structured.frames import at, steps_mask
from ..structured.log_space import pairwise_sum
from ..structured.rescaling import least_log
from .factors import Factors, as_factors, floor, largest_difference, loss, per_total, product, verdict
from .path import Path, clean
from .reach import reached

# The tables are most of the memory: each is made into factors within the loop, and found by its index there. As an
# operand of jax.lax.scan a batch of them would first be copied, time in front.


def log_partition(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln Z, and whether it is known to be right; the forward pass only. O(T K²)."""
    factors, _, norms, _ = _forward(potentials, length)
    size = norms.dtype.type(potentials.initial.size)
    tables = jnp.maximum(potentials.transitions, LOG_ZERO)
    widest = jnp.max(jnp.where(_inside(tables, length), jax.vmap(largest_difference)(tables), 0), initial=0)
    lost = floor(potentials.initial) * jnp.sum(loss(norms)) * size * jnp.exp(widest)
    return verdict(_log_z(factors, norms), lost, factors.log_scale, factors.possible)


def smooth(potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    """(ln Z, marginals), and whether they are known to be right. O(T K²) time, O(T K) memory besides the marginals."""
    factors, weights, norms, peaks = _forward(potentials, length)
    least, tables = floor(potentials.initial), potentials.transitions
    alpha = jnp.where(weights > least * norms[:, None], weights / norms[:, None], 0)
    onward = factors.states / norms[:, None]

    def step(after, t):
        after = at(onward, t + 1) * after
        before = jnp.where(t + 1 < length, product(after, _relative(at(tables, t), at(peaks, t)), 1), 1)
        return before, (before, after)

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    _, (beta, after) = jax.lax.scan(step, end, jnp.arange(len(tables)), reverse=True)
    beta = jnp.concatenate([beta, end[None]])
    inside = jnp.arange(norms.size) < length
    counts = inside & factors.possible
    lost = least * jnp.sum(jnp.where(inside, loss(norms) * jnp.sum(beta, axis=1), 0))
    joint = alpha * beta
    shares = per_total(joint, inside, factors.log_scale)
    states = jnp.where(counts[:, None], jnp.minimum(joint * shares[:, None], 1), 0)
    before = jnp.where(counts[1:, None], alpha[:-1] * shares[:-1, None], 0)
    after = jnp.where(counts[1:, None], after, 0)
    pairs = jnp.minimum(before[:, :, None] * _relative(tables, peaks) * after[:, None, :], 1)
    log_z, right = verdict(_log_z(factors, norms), lost, factors.log_scale, factors.possible)
    return (log_z, Path(states[0], pairs, states)), right


def _relative(tables: jax.Array, peaks: jax.Array) -> jax.Array:
    """Tables as factors; a NaN counts as 0, for in the padding nothing reads it, and elsewhere it is in the maximum."""
    return jnp.where(tables > IMPOSSIBLE, jnp.exp(jnp.clip(tables - peaks, least_log(tables.dtype), 0)), 0)


def _forward(potentials: Path, length: jax.Array) -> tuple[Factors, jax.Array, jax.Array, jax.Array]:
    """Factors, but for the tables, c α [T, K], c [T], and the maximum of each table, [T-1, 1, 1]."""
    initial, _, states = clean(potentials, length)
    tables = potentials.transitions
    first, top = as_factors(initial + states[0], (0,))
    emissions, tops = as_factors(states, (1,))
    peaks = jnp.maximum(jnp.max(tables, axis=(1, 2)), LOG_ZERO)
    peaks = jnp.where(_inside(tables, length), peaks, 0)[:, None, None]
    # in the padding all these are 0
    log_scale = top[0] + pairwise_sum(tops[1:, 0] + peaks[:, 0, 0])
    factors = Factors(first, tables, emissions, log_scale, ~(log_scale <= IMPOSSIBLE))
    weights, norms = _filter(factors, peaks, length)

    # a hard zero matters only where something stands at the floor: so the tables need not be searched for one
    least, inside = floor(initial), (jnp.arange(norms.size) < length)[:, None]
    kept = jnp.all((weights > least * norms[:, None]) | ~inside)
    found = emissions, factors.possible, weights, norms
    emissions, possible, weights, norms = fallback_together(
        kept, found, _pruned, found, potentials, factors, peaks, length
    )
    return factors._replace(states=emissions, possible=possible), weights, norms, peaks


def _pruned(found: tuple, potentials: Path, factors: Factors, peaks: jax.Array, length: jax.Array) -> tuple:
    """Factors of the states, whether there is a path, c α and c, where states that no path reaches are impossible."""

    def again(potentials, factors, peaks, length):
        reach, arrives = reached(potentials, length)
        pruned = factors._replace(states=jnp.where(reach, factors.states, 0))
        return pruned.states, arrives & factors.possible, *_filter(pruned, peaks, length)

    inside = _inside(potentials.transitions, length)[:, None, None]
    free = jnp.all(potentials.initial > IMPOSSIBLE) & jnp.all((potentials.transitions > IMPOSSIBLE) | ~inside)
    return fallback_together(free, found, again, potentials, factors, peaks, length)


def _filter(factors: Factors, peaks: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """c α [T, K] and c [T]."""
    least = floor(factors.initial)

    def step(before, t):
        weights, norm = before
        # the junk of the padding is computed, and left out of all that comes of it
        transition = _relative(at(factors.transitions, t), at(peaks, t))
        after = product(jnp.maximum(weights * (1 / norm), least), transition, 0) * at(factors.states, t + 1)
        inside = t + 1 < length
        after, norm = jnp.where(inside, after, weights), jnp.where(inside, jnp.sum(after), 1)
        return (after, norm), (after, norm)

    norm = jnp.sum(factors.initial)
    _, (rest, norms) = jax.lax.scan(step, (factors.initial, norm), jnp.arange(len(peaks)))
    return jnp.concatenate([factors.initial[None], rest]), jnp.concatenate([norm[None], norms])


def _log_z(factors: Factors, norms: jax.Array) -> jax.Array:
    return factors.log_scale + pairwise_sum(jnp.log(norms))


def _inside(tables: jax.Array, length: jax.Array) -> jax.Array:
    return steps_mask(len(tables) + 1, length)
