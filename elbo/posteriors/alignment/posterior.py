"""Alignments of frames with a sequence of labels: the posterior of connectionist temporal classification (CTC)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..._sequence import Labelled, as_padded
from ...numerics import IMPOSSIBLE, LOG_ZERO
from ..derive import affine_potentials
from ..structured.frames import gumbel, require_length, require_states
from ..structured.log_space import settled_score
from ..structured.posterior import StructuredPosterior
from ..structured.rules import inner
from . import log_space, passes
from .path import Sizes, States, clean, join, split


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AlignmentPosterior(StructuredPosterior):
    """A distribution of the ways to spread L labels over frames: P(z) ∝ exp Σ_t states[t, z_t].

    State 2i is the blank before label i, state 2i + 1 is label i (from 0), state 2L the last blank. A path starts in
    state 0 or 1, ends in one of the last two, and from frame to frame it stays, goes to the next state, or leaves out
    the blank between two labels that differ (Graves et al. 2006). z is its indicator, [T, 2L+1].

    One sequence; batches are made by vmap. Log potentials may be any numbers; −∞ counts as `LOG_ZERO`. Those beyond
    the lengths are ignored. Where there are too few frames for the labels, or no path is possible, the datum is
    impossible (see `Posterior`), and no gradient flows through it.

    Args:
      states: log potentials, [T, 2L+1], floating point.
      repeats: whether label i is the same as the one before it, bool [L]; the first entry is ignored.
      length: how many frames count, an int scalar in 0..T, for no frames spell no labels. A concrete one out of range
        raises, a traced one gives NaN.
      count: how many labels count, an int scalar in 0..L; the same.
      smoothed: (ln Z, marginals), known beforehand, or None; see `prepared`.

    >>> q = AlignmentPosterior(jnp.zeros((3, 3)), jnp.zeros(1, bool), jnp.array(3), jnp.array(1))
    >>> jnp.exp(q.log_partition()).tolist(), q.entropy().tolist()  # the label takes one of 6 intervals
    (6.0, 1.7918)
    >>> q.mean().round(4).tolist()
    [[0.5, 0.5, 0.0], [0.1667, 0.6667, 0.1667], [0.0, 0.5, 0.5]]
    """

    states: jax.Array
    repeats: jax.Array
    length: jax.Array
    count: jax.Array
    smoothed: tuple[jax.Array, States] | None = None
    _log_partition = staticmethod(passes.log_partition)
    _smooth = staticmethod(passes.smooth)

    def best(self) -> tuple[jax.Array, jax.Array]:
        """Forced alignment: the states of the most probable path, int [T] with −1 in the padding, and ⟨states, z⟩.

        All −1 and `LOG_ZERO` if no path is possible.
        """
        potentials, sizes = self._clean()
        path, weight = log_space.best(potentials, sizes)
        score = jnp.where(weight <= IMPOSSIBLE, LOG_ZERO, inner(potentials, split(self.path(path))))
        score = settled_score(score, potentials)
        return jnp.where(score > IMPOSSIBLE, path, -1), score

    def sample(self, key: jax.Array) -> jax.Array:
        """One path [T, 2L+1], exactly from P. O(T L)."""
        potentials, sizes = self._clean()
        noise = gumbel(key, len(self.states), self.states.shape[1:], self.states.dtype)
        return self._indicator(*log_space.sample(potentials, sizes, noise))

    def path(self, states: jax.Array) -> jax.Array:
        """The indicator of states [T], integers; what they are in the padding does not matter.

        >>> q = AlignmentPosterior(jnp.zeros((2, 3)), jnp.zeros(1, bool), jnp.array(1), jnp.array(1))
        >>> q.path(jnp.array([1, 5])).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        """
        _, sizes = self._clean()
        frames, size = self.states.shape
        require_states(states, frames)
        states = jnp.where(jnp.arange(frames) < sizes.frames, jnp.asarray(states, jnp.int32), -1)
        return jax.nn.one_hot(states, size, dtype=self.states.dtype)

    def _indicate(self, found: jax.Array) -> jax.Array:
        return self.path(found)

    def _to_z(self, marginals: States) -> jax.Array:
        return join(marginals)

    def _of_z(self, z: jax.Array) -> States:
        return split(z)

    def _clean(self) -> tuple[States, Sizes]:
        _check(self)
        sizes = Sizes(jnp.asarray(self.length, jnp.int32), jnp.asarray(self.count, jnp.int32), self.repeats)
        potentials = clean(split(self.states), sizes)
        return potentials, sizes


@dataclass(frozen=True)
class alignment:  # noqa: N801 - reads as a function: exact(log_joint, alignment())
    """Structure of the alignments of a datum `Labelled(inputs, labels)`; log_joint reads an indicator [T, 2L+1].

    Args:
      stride: T is ⌈frames of the inputs / stride⌉, for networks that halve (2) or quarter (4) the number of frames.

    >>> y = Labelled(jnp.zeros((4, 1)), jnp.array([7, 7]))  # a repeated label needs a blank before it
    >>> jnp.exp(alignment().posterior(lambda z: 0 * jnp.sum(z), y).log_partition()).tolist()
    5.0
    """

    stride: int = 1

    def __post_init__(self):
        if self.stride < 1:
            raise ValueError(f"stride: got {self.stride}, expected a positive number of frames")

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> AlignmentPosterior:
        """The exact posterior: its log potentials are the gradient of log_joint. Raises unless log_joint is affine."""
        if not isinstance(y, Labelled):
            raise ValueError(
                f"y: got {type(y).__name__}, expected elbo.Labelled(inputs, labels), each an array or an elbo.Padded"
            )
        inputs, labels = as_padded(y.inputs), as_padded(y.labels)
        frames, size = -(-inputs.frames // self.stride), labels.frames
        potentials = affine_potentials(log_joint, (frames, 2 * size + 1))
        same = labels.values[1:] == labels.values[:-1]
        repeats = jnp.concatenate([jnp.zeros(min(size, 1), bool), same])
        length = -(-jnp.asarray(inputs.length, jnp.int32) // self.stride)
        return AlignmentPosterior(potentials, repeats, length, labels.length)


def _check(q: AlignmentPosterior) -> None:
    shape, dtype = jnp.shape(q.states), jnp.result_type(q.states)
    if len(shape) != 2 or shape[0] < 1 or shape[1] % 2 == 0 or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"states: got {dtype}{list(shape)}, expected floating-point numbers [T, 2L+1], T >= 1; use jax.vmap over a "
            "batch"
        )
    repeats = jnp.shape(q.repeats), jnp.result_type(q.repeats)
    if repeats != ((shape[1] // 2,), jnp.dtype(bool)):
        raise ValueError(f"repeats: got {repeats[1]}{list(repeats[0])}, expected bool [{shape[1] // 2}]")
    require_length("length", q.length, 0, shape[0], "as many frames as states has")
    require_length("count", q.count, 0, shape[1] // 2, "as many labels as states has")
