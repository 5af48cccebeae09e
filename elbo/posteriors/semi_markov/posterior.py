"""Semi-Markov chains: the posterior of a hidden semi-Markov model, and the segmental conditional random field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..._sequence import as_padded
from ...numerics import IMPOSSIBLE, LOG_ZERO
from ..derive import affine_potentials
from ..structured.frames import gumbel, require_length, require_states
from ..structured.log_space import settled_score
from ..structured.posterior import StructuredPosterior
from ..structured.rules import inner
from . import passes
from .segments import Segmentation, Segments, clean, indicator


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SemiMarkovPosterior(StructuredPosterior):
    """A distribution of the ways to cut a sequence into segments, each of one of K states and of 1 to L frames.

        P(z) ∝ exp(initial[s_1] + Σ_n transitions[s_n, s_{n+1}] + Σ_n durations[s_n, d_n] + Σ_t states[t, s of t])

    over segments n of state s_n and d_n frames, which fill the sequence. One sequence; batches are made by vmap. z is a
    `Segments`. Log potentials may be any numbers; −∞ counts as `LOG_ZERO`. Those beyond the length are ignored. A
    sequence that no segments fill is an impossible datum (see `Posterior`), and no gradient flows through it. ln Z,
    marginals, draws and the best segmentation take O(T K² + T K L) time; Yu, "Hidden semi-Markov models", Artificial
    Intelligence 174, 2010; Sarawagi & Cohen, "Semi-Markov conditional random fields", NIPS 2004.

    Args:
      initial: [K], floating point.
      transitions: [K, K], from row to column; of a state to itself they count, for two segments may have one state.
      durations: [K, L], d frames at d − 1; or [T, K, L], of a segment that ends in frame t.
      states: [T, K].
      length: frames that count, an int scalar in 1..T. A concrete one out of range raises, a traced one gives NaN.
      smoothed: (ln Z, marginals), known beforehand, or None; see `prepared`.

    >>> q = SemiMarkovPosterior(jnp.zeros(1), jnp.zeros((1, 1)), jnp.zeros((1, 2)), jnp.zeros((4, 1)), jnp.array(4))
    >>> jnp.exp(q.log_partition()).tolist(), q.mean().durations.tolist()  # 4 as a sum of ones and twos: Fibonacci
    (5.0, [[2.0, 1.0]])
    """

    initial: jax.Array
    transitions: jax.Array
    durations: jax.Array
    states: jax.Array
    length: jax.Array
    smoothed: tuple[jax.Array, Segments] | None = None
    _log_partition = staticmethod(passes.log_partition)
    _smooth = staticmethod(passes.smooth)

    def best(self) -> tuple[Segmentation, jax.Array]:
        """The most probable segmentation, −1 in the padding, and its log potential, nats; −1 and `LOG_ZERO` if none."""
        potentials, length = self._clean()
        found, weight = passes.best(potentials, length)
        score = jnp.where(weight <= IMPOSSIBLE, LOG_ZERO, inner(potentials, self._indicate(found)))
        score = settled_score(score, potentials)
        return jax.tree.map(lambda a: jnp.where(score > IMPOSSIBLE, a, -1), found), score

    def sample(self, key: jax.Array) -> Segments:
        """One segmentation, exactly from P."""
        potentials, length = self._clean()
        frames, size = self.states.shape
        noise = gumbel(key, frames, (size + self.durations.shape[-1],), self.states.dtype)
        return self._indicator(*passes.sample(potentials, length, noise))

    def segments(self) -> jax.Array:
        """P(a segment of state k and d frames ends in frame t), [T, K, L] at [t, k, d − 1]; 0 in the padding."""
        raw, length = self._raw()
        shape = (len(self.states), *self.durations.shape[-2:])
        return passes.smooth(raw._replace(durations=jnp.broadcast_to(raw.durations, shape)), length)[1].durations

    def path(self, found: Segmentation) -> Segments:
        """The indicator of a segmentation that is given as integers.

        >>> q = SemiMarkovPosterior(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((2, 3)), jnp.zeros((4, 2)), jnp.array(4))
        >>> q.path(Segmentation(jnp.array([0, 0, 1, 0]), jnp.array([1, 0, 1, 1]))).durations.tolist()
        [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
        """
        _, length = self._raw()
        frames = len(self.states)
        for numbers in found:
            require_states(numbers, frames)
        inside = jnp.arange(frames) < length
        return self._indicate(Segmentation(*(jnp.where(inside, a, -1) for a in found)))

    def _indicate(self, found: Segmentation) -> Segments:
        longest, by_frame = self.durations.shape[-1], self.durations.ndim == 3
        return indicator(found, longest, by_frame, self.states.dtype, self.states.shape[1])

    def _given(self) -> tuple[Segments, jax.Array]:
        return self._raw()

    def _raw(self) -> tuple[Segments, jax.Array]:
        _check(self)
        potentials = Segments(self.initial, self.transitions, self.durations, self.states)
        return potentials, jnp.asarray(self.length, jnp.int32)

    def _clean(self) -> tuple[Segments, jax.Array]:
        potentials, length = self._raw()
        return clean(potentials, length), length


@dataclass(frozen=True)
class semi_markov:  # noqa: N801 - reads as a function: exact(log_joint, semi_markov(3, 20))
    """Structure of a sequence cut into segments: `semi_markov(K, L)`. log_joint reads a `Segments`.

    The datum is a `Padded` sequence, or a pytree with a leading axis T of full length. The segments fill it: the first
    starts, and the last ends, with the sequence.

    Args:
      states: K.
      longest: L, the most frames that a segment may have.
      homogeneous: whether log_joint reads counts of durations [K, L]; otherwise of the segments that end in each frame,
        [T, K, L], so that what a segment is worth may depend on all frames in it.

    >>> log_joint = lambda z: jnp.sum(z.states[:2, 0]) + jnp.sum(z.states[2:, 1]) - jnp.sum(z.durations)
    >>> q = semi_markov(2, 3).posterior(log_joint, jnp.zeros((5, 1)))
    >>> q.best()[0].states.tolist(), q.best()[0].starts.tolist(), q.best()[1].tolist()
    ([0, 0, 1, 1, 1], [1, 0, 1, 0, 0], 3.0)
    """

    states: int
    longest: int
    homogeneous: bool = True

    def __post_init__(self):
        for name in ("states", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")

    def posterior(self, log_joint: Callable[[Segments], jax.Array], y: Any = None) -> SemiMarkovPosterior:
        """The exact posterior: its log potentials are the gradient of log_joint. Raises unless log_joint is affine."""
        if y is None:
            raise ValueError("y: got None, expected a sequence: the number of frames is read off it")
        sequence = as_padded(y)
        size, frames, lasts = self.states, sequence.frames, (self.states, self.longest)
        shape: Any = ((size,), (size, size), lasts if self.homogeneous else (frames, *lasts), (frames, size))
        potentials = affine_potentials(log_joint, Segments(*shape))
        return SemiMarkovPosterior(**potentials._asdict(), length=sequence.length)


def _check(q: SemiMarkovPosterior) -> None:
    arrays = q.initial, q.transitions, q.durations, q.states
    shapes, dtypes = [jnp.shape(a) for a in arrays], [jnp.result_type(a) for a in arrays]
    frames, size = shapes[3] if len(shapes[3]) == 2 else (0, 0)
    longest = shapes[2][-1] if shapes[2] else 0
    wanted = (size,), (size, size), (frames, size, longest)[-len(shapes[2]) :], (frames, size)
    if min(frames, size, longest) < 1 or tuple(shapes) != wanted or len(shapes[2]) < 2:
        raise ValueError(
            f"initial, transitions, durations, states: got shapes {[list(s) for s in shapes]}, expected [K], [K, K], "
            "[K, L] or [T, K, L], and [T, K], with T, K, L >= 1; use jax.vmap over a batch of sequences"
        )
    if any(not jnp.issubdtype(d, jnp.floating) for d in dtypes):
        raise ValueError(
            f"initial, transitions, durations, states: got {[str(d) for d in dtypes]}, expected floating-point numbers"
        )
    require_length("length", q.length, 1, frames, "the number of frames of states; drop empty sequences")
