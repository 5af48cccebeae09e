"""States of CTC's extended label sequence, apart into blanks and labels; potentials and marginals look the same."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...numerics import LOG_ZERO


class States(NamedTuple):
    """One number for each frame and state.

    Attributes:
      blanks: [T, L+1], blank i lies before label i (from 0); or [T, 1], the same for all blanks.
      labels: [T, L].
    """

    blanks: jax.Array
    labels: jax.Array


class Sizes(NamedTuple):
    """What of an alignment is there, and which labels need a blank before them.

    Attributes:
      frames: how many frames count, an int scalar in 0..T.
      labels: how many labels count, an int scalar in 0..L.
      repeats: bool [L], whether a label is the same as the one before it; the first entry is ignored.
    """

    frames: jax.Array
    labels: jax.Array
    repeats: jax.Array


def split(z: jax.Array) -> States:
    """States [T, 2L+1] in their order blank, label, blank, …, blank, apart."""
    return States(z[:, ::2], z[:, 1::2])


def join(states: States) -> jax.Array:
    """Blanks [T, L+1] and labels [T, L] in their order, [T, 2L+1]."""
    blanks, labels = states
    pairs = jnp.stack([blanks[:, :-1], labels], axis=-1).reshape(len(labels), -1)
    return jnp.concatenate([pairs, blanks[:, -1:]], axis=1)


def clean(potentials: States, sizes: Sizes) -> States:
    """Log potentials that need no mask: −∞ is `LOG_ZERO`, and beyond the lengths nothing is left to choose.

    In the padding every blank is free and no label is possible: what has finished stays in its last blank, at no cost,
    and what has not never will. So ln Z and the marginals of the other frames are those without the padding. All is
    NaN where a length is out of range.
    """
    frames, most = potentials.labels.shape[-2:]
    inside = (jnp.arange(frames) < sizes.frames[..., None])[..., None]
    there = inside & (jnp.arange(most) < sizes.labels[..., None, None])
    in_range = (sizes.frames >= 0) & (sizes.frames <= frames) & (sizes.labels >= 0) & (sizes.labels <= most)
    blanks = jnp.where(inside, potentials.blanks, 0)
    if blanks.shape[-1] > 1:
        blanks = jnp.where(jnp.arange(most + 1) <= sizes.labels[..., None, None], blanks, LOG_ZERO)
    blanks = jnp.where(in_range[..., None, None], blanks, jnp.nan)
    return States(*(jnp.maximum(a, LOG_ZERO) for a in (blanks, jnp.where(there, potentials.labels, LOG_ZERO))))
