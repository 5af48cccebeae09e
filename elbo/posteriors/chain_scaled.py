"""Chains in the probability domain: as fast as matrix products, with a bound on what rescaling may have lost."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..numerics import IMPOSSIBLE, PRECISION
from .chain_log import pairwise_sum
from .chain_path import Path, steps_mask

# Why rescaling is harmless, or is found out.
#
# Forwards α_t = (α_{t-1} A) * E_t / c_t with c_t such that Σ_j α_t(j) = 1, and ln Z = Σ_t ln c_t + the maxima that were
# taken out of A <= 1 and E <= 1. Backwards, with the same scales, β_{t-1} = A (E_t * β_t / c_t). A number below
# `tiny` is lost. So a state that falls that far behind is lost with all paths through it, and these may be the only
# ones that finish: how much a loss matters is what β says, not α.
#
# The forward pass is therefore made to err upwards. Factors are at least e tiny (hard zeros are 0), and α at least
# δ = K tiny / eps. One step then adds to an entry of α, or takes from it,
#     at most δ (the floor) + (K products and their sum, the floors of A and E: 8 K tiny) / c_t = δ (1 + 8 eps / c_t).
# An x added to α_t(j) adds x β_t(j) to Z, relative to Z, because ⟨α_t, β_t⟩ = 1 with these scales. Hence
#     |relative error of Z| <= δ Σ_t (1 + 8 eps / c_t) Σ_j β_t(j),
# and the same bounds the total variation between true and computed marginals. β itself loses 2 K tiny at most in a
# step. Whatever an earlier frame adds has flowed into α_t <= 1 by then, since α never falls below the floor, so that
# all this changes the bound by 32 T eps² at most where it holds. If the bound is small, the pass was right whatever
# the potentials are; if it is large or NaN, log space decides.
#
# Without β: where the entries of each column of A differ by a factor of at most r, β_t(i) <= r β_t(j) for all i and j,
# and because ⟨α_t, β_t⟩ = 1, some β_t(j) <= 1. So Σ_j β_t(j) <= K r, and the forward pass has a bound by itself. In
# float32 it suffices for transition potentials within about 40 nats of each other.


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
    lost = _floor(potentials) * jnp.sum(_weight(norms)) * size * jnp.exp(_range(potentials.transitions))
    return factors.log_scale + pairwise_sum(jnp.log(norms)), _small(lost)


def smooth(potentials: Path, length: jax.Array) -> tuple[tuple[jax.Array, Path], jax.Array]:
    """(ln Z, marginals), and whether they are known to be right. O(T K²) time, O(T K) memory if homogeneous."""
    factors = scale(potentials, length)
    weights, norms = forward(factors, length)
    onward = factors.states / norms[:, None]
    beta = backward(factors, onward, length)
    inside = (jnp.arange(norms.size) < length)[:, None]
    lost = _floor(potentials) * jnp.sum(jnp.where(inside, _weight(norms)[:, None] * beta, 0))
    log_z = factors.log_scale + pairwise_sum(jnp.log(norms))

    # states at the floor are there for the bound only; rounding makes the sums drift from 1 in a long chain
    weights = jnp.where(weights > _floor(potentials) * norms[:, None], weights, 0)
    joint = weights * beta
    total = jnp.sum(joint, axis=1, keepdims=True)
    states = jnp.where(inside, joint / total, 0)
    before = jnp.where(inside[1:], (weights / total)[:-1], 0)
    after = jnp.where(inside[1:], (onward * beta)[1:], 0)
    pairs = "ti,tj->ij" if potentials.homogeneous else "ti,tj->tij"
    transitions = jnp.einsum(pairs, before, after, precision=PRECISION) * factors.transitions
    return (log_z, Path(states[0], transitions, states)), _small(lost)


def scale(potentials: Path, length: jax.Array) -> Scaled:
    """Clean potentials as factors; the initial one holds the first frame as well."""
    _, transitions, states = potentials
    first, top = _factors(potentials.initial + states[0], (0,))
    emissions, tops = _factors(states, (1,))
    pairs, peaks = _factors(transitions, (-2, -1))
    steps = steps_mask(len(states), length)
    log_scale = top[0] + pairwise_sum(jnp.where(steps, tops[1:, 0] + peaks[..., 0, 0], 0))
    return Scaled(first, pairs, emissions, log_scale)


def forward(factors: Scaled, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Filtered probabilities before they are divided by their sums, c α [T, K], and c [T], 1 in the padding."""
    homogeneous = factors.transitions.ndim == 2
    floor = _floor(factors)

    def step(before, x):
        weights, norm = before
        emission, transition = x
        transition = factors.transitions if homogeneous else transition
        # divided only now: so one step of the loop waits for one reduction, not for two
        after = _product(jnp.maximum(weights * (1 / norm), floor), transition) * emission
        norm = jnp.sum(after)
        return (after, norm), (after, norm)

    norm = jnp.sum(factors.initial)
    xs = (factors.states[1:], None if homogeneous else factors.transitions)
    _, (rest, norms) = jax.lax.scan(step, (factors.initial, norm), xs)
    norms = jnp.where(steps_mask(len(factors.states), length), norms, 1)
    return jnp.concatenate([factors.initial[None], rest]), jnp.concatenate([norm[None], norms])


def backward(factors: Scaled, onward: jax.Array, length: jax.Array) -> jax.Array:
    """β [T, K] from onward = E / c [T, K]; 1 from the last frame on."""
    homogeneous = factors.transitions.ndim == 2
    transposed = jnp.swapaxes(factors.transitions, -1, -2)

    def step(after, x):
        weights, transition, counts = x
        transition = transposed if homogeneous else transition
        before = jnp.where(counts, _product(after * weights, transition), 1)
        return before, before

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    xs = (onward[1:], None if homogeneous else transposed, steps_mask(len(onward), length))
    _, beta = jax.lax.scan(step, end, xs, reverse=True)
    return jnp.concatenate([beta, end[None]])


def _product(vector: jax.Array, matrix: jax.Array) -> jax.Array:
    """vector @ matrix, [K]; for few states as a sum, which the compiler fuses with its neighbours in the loop."""
    if vector.size <= 16:
        return jnp.sum(vector[:, None] * matrix, axis=0)
    return jnp.dot(vector, matrix, precision=PRECISION)


def _factors(log: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """exp(log − max) and max; hard zeros are 0, other factors at least e times the smallest normal number."""
    top = jnp.max(log, axis=axes, keepdims=True)
    least = jnp.log(jnp.finfo(log.dtype).tiny) + 1  # a number below tiny may be flushed to 0
    return jnp.where(log <= IMPOSSIBLE, 0, jnp.exp(jnp.maximum(log - top, least))), top


def _range(log: jax.Array) -> jax.Array:
    """The largest difference within a column of transition potentials, nats."""
    return jnp.max(jnp.max(log, axis=-2) - jnp.min(log, axis=-2), initial=0)


def _floor(potentials: Path | Scaled) -> float:
    numbers = jnp.finfo(potentials.states.dtype)
    return float(numbers.tiny) / float(numbers.eps) * potentials.initial.size


def _weight(norms: jax.Array) -> jax.Array:
    return 1 + 8 * jnp.finfo(norms.dtype).eps / norms


def _small(lost: jax.Array) -> jax.Array:
    return lost <= 16 * jnp.finfo(lost.dtype).eps
