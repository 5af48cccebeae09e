"""A segmentation as an indicator, and as integers; potentials and marginals have the shape of the indicator."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...numerics import LOG_ZERO


class Segments(NamedTuple):
    """The indicator z of a sequence cut into segments, each of one of K states and of 1 to L frames; or its mean.

    Attributes:
      initial: indicator of the state of the first segment, [K].
      transitions: counts of the pairs of segments that follow one another, [K, K].
      durations: counts of segments by state and frames, [K, L] (d frames at d − 1); or of those that end in each frame,
        [T, K, L].
      states: indicator of the state of each frame, [T, K]; rows of the padding are zero.
    """

    initial: jax.Array
    transitions: jax.Array
    durations: jax.Array
    states: jax.Array


class Segmentation(NamedTuple):
    """A segmentation as integers, −1 in the padding.

    Attributes:
      states: the state of each frame, [T].
      starts: 1 where a segment starts, else 0, [T]: two segments of one state may follow one another.
    """

    states: jax.Array
    starts: jax.Array


def clean(potentials: Segments, length: jax.Array) -> Segments:
    """Log potentials with zeros in the padding and `LOG_ZERO` for −∞; all NaN where the length is not in 1..T."""
    frames = potentials.states.shape[0]
    initial, transitions, durations, states = potentials
    inside = jnp.arange(frames) < length
    states = jnp.where(inside[:, None], states, 0)
    if durations.ndim == 3:
        durations = jnp.where(inside[:, None, None], durations, 0)
    initial = jnp.where((length >= 1) & (length <= frames), initial, jnp.nan)
    return Segments(*(jnp.maximum(a, LOG_ZERO) for a in (initial, transitions, durations, states)))


def indicator(found: Segmentation, longest: int, by_frame: bool, dtype: jnp.dtype, size: int) -> Segments:
    """The indicator of a segmentation; zeros where its states are −1, and for segments longer than L."""
    frames = found.states.size
    each = jax.nn.one_hot(found.states, size, dtype=dtype)
    starts = (found.starts > 0) | (jnp.arange(frames) == 0)
    here = jnp.arange(frames)
    inside = found.states >= 0
    ends = inside & jnp.append(starts[1:] | ~inside[1:], True)
    durations = jax.nn.one_hot(here - jax.lax.cummax(jnp.where(starts, here, 0)), longest, dtype=dtype)
    closed = jnp.where(ends[:, None], each, 0)
    cut = jnp.einsum("tk,tl->tkl" if by_frame else "tk,tl->kl", closed, durations)
    return Segments(each[0], jnp.einsum("ti,tj->ij", closed[:-1], each[1:]), cut, each)
