"""Sequences as hmmlearn has them, all frames in a row with the lengths, and padded as the programs take them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import elbo

from ._programs import Data, dtype, size


class Sequences(NamedTuple):
    """Frames of several sequences.

    Attributes:
      data: `elbo.Padded` frames [N, T, ...]; both axes are padded to few different sizes.
      places: which of the frames are none of the padding, bool [N, T].
      used: how many sequences there are that are none of the padding.
    """

    data: Data
    places: np.ndarray
    used: int

    def in_a_row(self, frames: Any) -> np.ndarray:
        """What is known of each frame, [N, T, ...], in the order of X, [n_samples, ...]."""
        return np.asarray(frames)[self.places]


def sequences(frames: np.ndarray, lengths: Any) -> Sequences:
    """X [n_samples, ...] cut into sequences of the given lengths; None for one sequence.

    Raises:
      ValueError: the lengths do not add up to n_samples.
    """
    each = np.array([len(frames)] if lengths is None else lengths)
    if each.ndim != 1 or not np.issubdtype(each.dtype, np.integer) or (each < 1).any() or each.sum() != len(frames):
        raise ValueError(
            f"lengths: got {_told(lengths)}, expected whole numbers >= 1 that add up to the {len(frames)} rows of X, "
            "the number of frames of each sequence in a row"
        )
    # a few short sequences cost nothing to pad; of many it would be most of the work
    longest = size(int(each.max()), 256 if len(each) <= 16 else 8)
    many = 1 if len(each) == 1 else size(len(each))
    length = np.concatenate([each, np.ones(many - len(each), int)]).astype(np.int32)
    real = np.arange(many) < len(each)
    places = (np.arange(longest) < length[:, None]) & real[:, None]
    values = np.zeros((many, longest, *frames.shape[1:]), frames.dtype)
    values[places] = frames
    return Sequences(
        Data(elbo.Padded(jnp.asarray(values), jnp.asarray(length)), real.astype(dtype())), places, len(each)
    )


def refuse_lengths(y: Any, frames: Any) -> None:
    """Raises where y, which is ignored, looks like the lengths, which hmmlearn takes in its place."""
    if y is not None and np.shape(y)[:1] != np.shape(frames)[:1]:
        raise ValueError(
            f"y: got {_told(y)} beside {len(frames)} rows of X, expected None: it is ignored. Give the lengths of "
            "sequences by their name, lengths=..."
        )


def _told(lengths: Any) -> str:
    text = repr(lengths)
    return text if len(text) < 60 else text[:56] + " ..."
