"""Passes over all segmentations in log space, a frame after the other: sums, the best one, and draws.

What is carried is the weight of each open segment by the frames that it has lasted, so that a frame costs K L for the
segments and K² for the transitions, and no sum of potentials over a long stretch is ever differenced.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from ...numerics import IMPOSSIBLE, LOG_ZERO
from ..structured.log_space import pairwise_sum, relative, settle
from ..structured.rules import differentiable
from .segments import Segmentation, Segments, clean

Reduce = Callable[..., jax.Array]


def forward(potentials: Segments, length: jax.Array, reduce: Reduce) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ln of the weight of all ways to a frame, by what stands open there, and by what ends there.

    Args:
      potentials: clean log potentials.
      length: frames that count.
      reduce: `logsumexp` for the sum of all segmentations, `max` for the best one.

    Returns:
      ln Z; open [T, K, L] and closed [T, K], up to a constant of the frame.
    """
    initial, transitions, durations, states = potentials
    by_frame = durations.ndim == 3
    # a segment that no duration lets end in time might have the largest weight, beside which the others lose digits
    ages = jnp.arange(durations.shape[-1])
    allowed = (jnp.max(durations, 0) if by_frame else durations) > IMPOSSIBLE
    lacks = jax.lax.cummin(jnp.where(allowed, ages, len(states) + ages.size), 1, reverse=True) - ages

    def step(carry, x):
        open_before, closed_before = carry
        emission, lasts, t = x
        lasts = lasts if by_frame else durations
        entry = jnp.where(t == 0, initial, reduce(closed_before[:, None] + transitions, axis=0))
        opened = jnp.concatenate([entry[:, None], open_before[:, :-1]], 1) + emission[:, None]
        opened = jnp.where(lacks < length - t, opened, LOG_ZERO)
        weights, peak = relative((opened, reduce(opened + lasts, axis=1)))
        counts = t < length
        weights = jax.tree.map(lambda new, old: jnp.where(counts, new, old), weights, carry)
        return weights, (*weights, jnp.where(counts, peak, 0))

    # NaN where the length is out of range, which initial tells
    nothing = jnp.full_like(durations[0] if by_frame else durations, LOG_ZERO) + 0 * (initial[0] + states[0, 0])
    xs = (states, durations if by_frame else None, jnp.arange(len(states)))
    last, (opened, closed, peaks) = jax.lax.scan(step, (nothing, nothing[:, 0]), xs)
    return settle(pairwise_sum(peaks) + reduce(last[1], axis=0)), opened, closed


def _log_partition(potentials: Segments, length: jax.Array) -> jax.Array:
    return forward(clean(potentials, length), length, logsumexp)[0]


def _smooth(potentials: Segments, length: jax.Array) -> tuple[jax.Array, Segments]:
    return jax.value_and_grad(_log_partition)(potentials, length)


log_partition, smooth = differentiable(_log_partition, _smooth, _smooth, clean)


@jax.jit
def best(potentials: Segments, length: jax.Array) -> tuple[Segmentation, jax.Array]:
    """The segmentation of the largest weight (Viterbi), and that weight, of clean potentials. O(T K² + T K L)."""
    score, opened, closed = forward(potentials, length, jnp.max)
    return _trace(potentials, length, opened, closed), score


@jax.jit
def sample(potentials: Segments, length: jax.Array, noise: jax.Array) -> tuple[Segmentation, jax.Array]:
    """One segmentation from Gumbel noise [T, K + L]: forwards, then drawn backwards. And ln Z."""
    log_z, opened, closed = forward(potentials, length, logsumexp)
    size = closed.shape[1]
    return _trace(potentials, length, opened + noise[:, None, size:], closed + noise[:, :size]), log_z


def _trace(potentials: Segments, length: jax.Array, opened: jax.Array, closed: jax.Array) -> Segmentation:
    """From the last frame backwards: where a segment ends, the state of the largest score, then its duration."""
    transitions, durations = potentials.transitions, potentials.durations

    def step(carry, x):
        state, left = carry  # of the segment that the next frame belongs to; left: its frames up to here
        opened, closed, lasts, t = x
        ahead = jnp.where(t == length - 1, 0, transitions[:, state])
        ends = left == 0
        state = jnp.where(ends, jnp.argmax(closed + ahead), state)
        lasted = jnp.argmax(opened[state] + (durations if lasts is None else lasts)[state]) + 1
        left = jnp.where(ends, lasted, left)
        inside = t < length
        carry = jnp.where(inside, state, 0), jnp.where(inside, left - 1, 0)
        return carry, Segmentation(jnp.where(inside, state, -1), jnp.where(inside, left == 1, -1))

    xs = (opened, closed, durations if durations.ndim == 3 else None, jnp.arange(len(closed)))
    zero = jnp.zeros((), jnp.argmax(closed[0]).dtype)
    found = jax.lax.scan(step, (zero, zero), xs, reverse=True)[1]
    return jax.tree.map(lambda a: a.astype(jnp.int32), found)
