"""Chains of K states: the posterior of a hidden Markov model, and the linear-chain conditional random field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..._sequence import as_padded
from ...numerics import IMPOSSIBLE, LOG_ZERO, require_number
from ..derive import affine_potentials
from ..structured.frames import gumbel, require_length, require_states
from ..structured.log_space import settled_score
from ..structured.posterior import StructuredPosterior
from ..structured.rules import inner
from . import log_space, passes, relaxed
from .path import Path, clean


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ChainPosterior(StructuredPosterior):
    """A distribution of paths: P(z_1 … z_L) ∝ exp(initial[z_1] + Σ_t transition[z_t, z_{t+1}] + Σ_t states[t, z_t]).

    One sequence; batches are made by vmap. z is a `Path`. Log potentials may be any numbers; −∞ counts as `LOG_ZERO`.
    Those beyond the length are ignored. A chain without a possible path is an impossible datum (see `Posterior`), and
    no gradient flows through it.

    Args:
      initial: [K], floating point.
      transition: [K, K], from row to column, or [T-1, K, K], one for each step.
      states: [T, K].
      length: L, an int scalar in 1..T, for a path has a first state. A concrete one out of range raises, a traced one
        gives NaN.
      smoothed: (ln Z, marginals), known beforehand, or None; see `prepared`.

    >>> q = ChainPosterior(jnp.zeros(2), jnp.log(jnp.array([[3.0, 1.0], [1.0, 3.0]])), jnp.zeros((3, 2)), jnp.array(2))
    >>> q.log_partition().tolist(), q.mean().transitions.tolist()  # 8 = 3 + 1 + 1 + 3
    (2.0794, [[0.375, 0.125], [0.125, 0.375]])
    >>> q.mean().states.tolist(), q.entropy().tolist()
    ([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]], 1.2555)
    """

    initial: jax.Array
    transition: jax.Array
    states: jax.Array
    length: jax.Array
    smoothed: tuple[jax.Array, Path] | None = None
    _log_partition = staticmethod(passes.log_partition)
    _smooth = staticmethod(passes.smooth)

    def best(self) -> tuple[jax.Array, jax.Array]:
        """States of the most probable path, int [T] with -1 in the padding, and its log potential, nats (Viterbi).

        All -1 and `LOG_ZERO` if no path is possible.
        """
        potentials, length = self._clean()
        states = log_space.best(potentials, length)
        score = settled_score(inner(potentials, self.path(states)), potentials)
        return jnp.where(score > IMPOSSIBLE, states, -1), score

    def sample(self, key: jax.Array) -> Path:
        """One path, exactly from P: the states forwards, filtered, then drawn backwards. O(T K²)."""
        potentials, length = self._clean()
        return self._indicator(*log_space.sample(potentials, length, self._noise(key)))

    def relaxed(self, key: jax.Array, temperature: float | jax.Array) -> Path:
        """A path of soft states, differentiable in the potentials; as the temperature falls to 0 it is `sample(key)`.

        The temperature may be traced; one that is not positive then gives NaN. O(T K²).
        """
        require_number("temperature", temperature, lambda t: t > 0, "a positive number")
        potentials, length = self._clean()
        temperature = jnp.asarray(temperature, self.states.dtype)
        temperature = jnp.where(temperature > 0, temperature, jnp.nan)
        return relaxed.sample(potentials, length, self._noise(key), temperature)

    def path(self, states: jax.Array) -> Path:
        """The indicator of states [T], integers; what they are in the padding does not matter.

        >>> q = ChainPosterior(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((3, 2)), jnp.array(3))
        >>> q.path(jnp.array([0, 0, 1])).transitions.tolist()
        [[1.0, 1.0], [0.0, 0.0]]
        """
        _, length = self._raw()
        frames, size = self.states.shape
        require_states(states, frames)
        states = jnp.where(jnp.arange(frames) < length, jnp.asarray(states, jnp.int32), -1)
        each = jax.nn.one_hot(states, size, dtype=self.states.dtype)
        pairs = "ti,tj->ij" if self.transition.ndim == 2 else "ti,tj->tij"
        return Path(each[0], jnp.einsum(pairs, each[:-1], each[1:]), each)

    def filtered(self) -> jax.Array:
        """ln P(z_t | potentials of the frames up to t), [T, K]; `LOG_ZERO` in the padding and where P is impossible."""
        potentials, length = self._clean()
        _, alpha, peaks = log_space.forward(potentials, length)
        seen = ~(jnp.cumsum(peaks) <= IMPOSSIBLE) & (jnp.arange(peaks.size) < length)
        return jnp.where(seen[:, None], jax.nn.log_softmax(alpha, axis=-1), LOG_ZERO)

    def _noise(self, key: jax.Array) -> jax.Array:
        return gumbel(key, len(self.states), self.initial.shape, self.states.dtype)

    def _indicate(self, found: jax.Array) -> Path:
        return self.path(found)

    def _given(self) -> tuple[Path, jax.Array]:
        return self._raw()

    def _raw(self) -> tuple[Path, jax.Array]:
        _check(self)
        return Path(self.initial, self.transition, self.states), jnp.asarray(self.length, jnp.int32)

    def _clean(self) -> tuple[Path, jax.Array]:
        potentials, length = self._raw()
        return clean(potentials, length), length


@dataclass(frozen=True)
class chain:  # noqa: N801 - reads as a function: exact(log_joint, chain(3))
    """Structure of a path through `states` states, as long as the datum: `chain(K)`. log_joint reads a `Path`.

    The datum is a `Padded` sequence, or a pytree with a leading axis T of full length.

    Args:
      states: K.
      homogeneous: whether log_joint reads summed transition counts [K, K]; otherwise each step's, [T-1, K, K].

    >>> log_joint = lambda z: jnp.sum(z.states[:, 1]) - 2 * z.initial[1]
    >>> q = chain(2).posterior(log_joint, jnp.zeros((4, 1)))
    >>> q.best()[0].tolist(), q.best()[1].tolist()
    ([0, 1, 1, 1], 3.0)
    """

    states: int
    homogeneous: bool = True

    def __post_init__(self):
        if self.states < 1:
            raise ValueError(f"states: got {self.states}, expected a positive number of states")

    def posterior(self, log_joint: Callable[[Path], jax.Array], y: Any = None) -> ChainPosterior:
        """The exact posterior: its log potentials are the gradient of log_joint. Raises unless log_joint is affine."""
        if y is None:
            raise ValueError("y: got None, expected a sequence: the number of frames is read off it")
        sequence = as_padded(y)
        size, frames = self.states, sequence.frames
        pairs = (size, size) if self.homogeneous else (frames - 1, size, size)
        shape: Any = Path((size,), pairs, (frames, size))  # type: ignore[arg-type]
        potentials = affine_potentials(log_joint, shape)
        return ChainPosterior(potentials.initial, potentials.transitions, potentials.states, sequence.length)


def _check(q: ChainPosterior) -> None:
    shapes = [jnp.shape(a) for a in (q.initial, q.transition, q.states)]
    frames, size = shapes[2] if len(shapes[2]) == 2 else (0, 0)
    pairs = [(size, size), (frames - 1, size, size)]
    if frames < 1 or size < 1 or shapes[0] != (size,) or shapes[1] not in pairs:
        raise ValueError(
            f"initial, transition, states: got shapes {[list(s) for s in shapes]}, expected [K], [K, K] or [T-1, K, K] "
            "and [T, K], with T, K >= 1; use jax.vmap over a batch of chains"
        )
    dtypes = [jnp.result_type(a) for a in (q.initial, q.transition, q.states)]
    if any(not jnp.issubdtype(d, jnp.floating) for d in dtypes):
        raise ValueError(
            f"initial, transition, states: got {[str(d) for d in dtypes]}, expected floating-point numbers"
        )
    require_length("length", q.length, 1, frames, "the number of frames of states; drop empty sequences")
