"""Alignments of frames with a sequence of labels: the posterior of connectionist temporal classification (CTC)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..numerics import IMPOSSIBLE, LOG_ZERO, PRECISION, within
from ..sequence import Labelled, padded
from . import alignment_log, alignment_passes
from .alignment_path import Sizes, States, clean, join, split
from .chain_log import settled_score
from .derive import affine_potentials
from .protocol import same_shapes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Alignment:
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

    >>> q = Alignment(jnp.zeros((3, 3)), jnp.zeros(1, bool), jnp.array(3), jnp.array(1))
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
    reparameterized: ClassVar[bool] = False

    def prepared(self) -> "Alignment":
        """The same with ln Z and the marginals computed once for `mean`, `entropy` and `log_partition`. O(T L).

        The derivatives of the marginals, and of the entropy, are slower than that of `log_partition`.
        """
        return replace(self, smoothed=self._smoothed())

    def log_partition(self) -> jax.Array:
        """ln Z = ln Σ_z exp ⟨states, z⟩, a scalar; its gradient is `mean()`. O(T L)."""
        clean = self._clean()
        return alignment_passes.log_partition(*clean) if self.smoothed is None else self.smoothed[0]

    def mean(self) -> jax.Array:
        """Marginals P(z_t), [T, 2L+1]; zero in the padding. O(T L)."""
        return join(self._smoothed()[1])

    def entropy(self) -> jax.Array:
        """−Σ P ln P = ln Z − ⟨states, mean⟩, nats; `LOG_ZERO` where no path is possible."""
        potentials, _ = self._clean()
        log_z, marginals = self._smoothed()
        possible = States(*(jnp.where(a <= IMPOSSIBLE, 0, a) for a in potentials))
        entropy = within(log_z - alignment_passes.inner(possible, marginals), 0, jnp.inf)
        return jnp.where(log_z <= IMPOSSIBLE, log_z, entropy)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln P(z) of a path, nats; affine in z, of which a mean may take the place. `LOG_ZERO` or less: impossible.

        That z is a path is not checked.
        """
        potentials, _ = self._clean()
        same_shapes("z", z, self.states)
        log_z = self.log_partition()
        return jnp.where(log_z <= IMPOSSIBLE, LOG_ZERO, self._score(potentials, z) - log_z)

    def mode(self) -> jax.Array:
        """The most probable path, [T, 2L+1] (Viterbi)."""
        return self._indicator(*self.best())

    def best(self) -> tuple[jax.Array, jax.Array]:
        """Forced alignment: the states of the most probable path, int [T] with −1 in the padding, and ⟨states, z⟩.

        All −1 and `LOG_ZERO` if no path is possible.
        """
        potentials, sizes = self._clean()
        path, weight = alignment_log.best(potentials, sizes)
        score = jnp.where(weight <= IMPOSSIBLE, LOG_ZERO, self._score(potentials, self.path(path)))
        score = settled_score(score, potentials)
        return jnp.where(score > IMPOSSIBLE, path, -1), score

    def sample(self, key: jax.Array) -> jax.Array:
        """One path [T, 2L+1], exactly from P. O(T L)."""
        potentials, sizes = self._clean()
        # a key for each frame: draws do not depend on the padding of the frames
        frames, size = self.states.shape
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(frames))
        noise = jax.vmap(lambda k: jax.random.gumbel(k, (size,), self.states.dtype))(keys)
        return self._indicator(*alignment_log.sample(potentials, sizes, noise))

    def path(self, states: jax.Array) -> jax.Array:
        """The indicator of states [T], integers; what they are in the padding does not matter.

        >>> q = Alignment(jnp.zeros((2, 3)), jnp.zeros(1, bool), jnp.array(1), jnp.array(1))
        >>> q.path(jnp.array([1, 5])).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        """
        _, sizes = self._clean()
        frames, size = self.states.shape
        if jnp.shape(states) != (frames,) or not jnp.issubdtype(jnp.result_type(states), jnp.integer):
            raise ValueError(
                f"states: got {jnp.result_type(states)}{list(jnp.shape(states))}, expected integers [{frames}], the "
                "state of each frame; use jax.vmap over a batch"
            )
        states = jnp.where(jnp.arange(frames) < sizes.frames, jnp.asarray(states, jnp.int32), -1)
        return jax.nn.one_hot(states, size, dtype=self.states.dtype)

    def _score(self, potentials: States, z: jax.Array) -> jax.Array:
        return jnp.vdot(join(potentials), z, precision=PRECISION)

    def _indicator(self, states: jax.Array, score: jax.Array) -> jax.Array:
        """The indicator of states, zeros if the score is that of an impossible path, NaN if it is no number."""
        return jnp.where(jnp.isnan(score), jnp.nan, self.path(jnp.where(score <= IMPOSSIBLE, -1, states)))

    def _smoothed(self) -> tuple[jax.Array, States]:
        clean = self._clean()
        return alignment_passes.smooth(*clean) if self.smoothed is None else self.smoothed

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

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> Alignment:
        """The exact posterior: its log potentials are the gradient of log_joint. Raises unless log_joint is affine."""
        if not isinstance(y, Labelled):
            raise ValueError(
                f"y: got {type(y).__name__}, expected elbo.Labelled(inputs, labels), each an array or an elbo.Padded"
            )
        inputs, labels = padded(y.inputs), padded(y.labels)
        frames, size = -(-inputs.frames // self.stride), labels.frames
        potentials = affine_potentials(log_joint, (frames, 2 * size + 1))
        same = labels.values[1:] == labels.values[:-1]
        repeats = jnp.concatenate([jnp.zeros(min(size, 1), bool), same])
        length = -(-jnp.asarray(inputs.length, jnp.int32) // self.stride)
        return Alignment(potentials, repeats, length, labels.length)


def _check(q: Alignment) -> None:
    shape, dtype = jnp.shape(q.states), jnp.result_type(q.states)
    if len(shape) != 2 or shape[0] < 1 or shape[1] % 2 == 0 or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"states: got {dtype}{list(shape)}, expected floating-point numbers [T, 2L+1], T >= 1; use jax.vmap over a "
            "batch"
        )
    repeats = jnp.shape(q.repeats), jnp.result_type(q.repeats)
    if repeats != ((shape[1] // 2,), jnp.dtype(bool)):
        raise ValueError(f"repeats: got {repeats[1]}{list(repeats[0])}, expected bool [{shape[1] // 2}]")
    for name in ("length", "count"):
        value = getattr(q, name)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise ValueError(
                f"{name}: got {jnp.result_type(value)}{list(jnp.shape(value))}, expected an int scalar; use jax.vmap "
                "over a batch"
            )
        most = shape[0] if name == "length" else shape[1] // 2
        if not isinstance(value, jax.core.Tracer) and not 0 <= int(value) <= most:
            raise ValueError(f"{name}: got {int(value)}, expected 0 to {most}, as many as states has")
