"""Passes for at most 4 chains of at most 6 states, whose time is the latency of a frame and not the arithmetic."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..._types import PyTree
from ..structured.frames import at
from .factors import Factors, Filtered, floor, product

# A loop with so few states runs as one piece of machine code, 10 to 20 ns a frame; a larger one calls an operation
# after the other, and then fewer operations are faster: as in `homogeneous`.
STATES = 6
CHAINS = 4
_HEADROOM = 2.0**64


def forward(factors: Factors, length: jax.Array) -> Filtered:
    """Each frame is divided by the root of the sum before the last one over 2⁶⁴, which is known early.

    The sums n_t then stay near 2⁶⁴: ln n_{t+1} = ln n_t − ½ ln(n_{t−1} / 2⁶⁴) + ln c_{t+1} is a damped recursion.
    """
    least, frames = floor(factors.initial), len(factors.states)

    def step(before, t):
        weights, earlier = before
        divided = jnp.maximum(weights * (1 / _divisor(earlier)), least)
        now = jnp.sum(weights)
        return (product(divided, factors.transitions, 0) * at(factors.states, t + 1), now), (weights, now)

    first = factors.initial * _HEADROOM
    start = jnp.asarray(_HEADROOM, first.dtype) + 0 * first[0]
    weights, sums = _in_pairs(step, (first, start), frames)
    divisors = _divisor(jnp.concatenate([start[None], sums[:-1]]))
    norms = jnp.concatenate([sums[:1] / _HEADROOM, sums[1:] * divisors[:-1] / sums[:-1]])
    inside = jnp.arange(frames) < length
    norms, floors = jnp.where(inside, norms, 1), jnp.where(inside, divisors / sums, 1)
    return Filtered(weights, norms, floors, least * jnp.maximum(divisors, sums))


def backward(factors: Factors, onward: jax.Array, length: jax.Array) -> jax.Array:
    """β [T, K] from onward = E / c [T, K]; 1 from the last frame on."""

    def step(after, t):
        before = jnp.where(t + 1 < length, product(after * at(onward, t + 1), factors.transitions, 1), 1)
        return before, before

    end = jnp.ones_like(onward[-1]) + 0 * onward[-1]
    return _in_pairs(step, end, len(onward), reverse=True)


def _in_pairs(step: Callable, carry: PyTree, count: int, reverse: bool = False) -> PyTree:
    """What jax.lax.scan over 0 … count-1 puts out, but two steps a turn; where count is odd a step more at the end.

    An index out of range reads the nearest frame.
    """

    def turn(carry, t):
        first, second = (t + 1, t) if reverse else (t, t + 1)
        carry, a = step(carry, first)
        carry, b = step(carry, second)
        return carry, jax.tree.map(lambda a, b: jnp.stack([b, a] if reverse else [a, b]), a, b)

    odd = count % 2
    turns = 2 * jnp.arange((count + odd) // 2) - (odd if reverse else 0)
    _, pairs = jax.lax.scan(turn, carry, turns, reverse=reverse)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[odd * reverse :][:count], pairs)


def _divisor(earlier: jax.Array) -> jax.Array:
    return jnp.sqrt(earlier * (1 / _HEADROOM))
