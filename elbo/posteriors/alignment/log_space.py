"""Alignments in log space: plain arithmetic, which JAX differentiates any number of times; the best path, and draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...numerics import IMPOSSIBLE, LOG_ZERO, within
from ..structured.frames import steps_mask
from ..structured.log_space import pairwise_sum, relative, settle, trace
from .path import Sizes, States, join

Plus = Callable[[jax.Array, jax.Array], jax.Array]


@jax.jit
def smooth(potentials: States, sizes: Sizes) -> tuple[jax.Array, States]:
    """ln Z and the marginals of clean potentials of one alignment, from logarithms throughout. O(T L)."""
    alpha, log_z = forward(potentials, sizes, jnp.logaddexp)
    beta = backward(potentials, sizes)
    blanks, labels = (a + b for a, b in zip(alpha, beta, strict=True))
    each = within(jax.nn.softmax(jnp.concatenate([blanks, labels], axis=1), axis=1), 0, 1)
    counts = (jnp.arange(len(labels)) < sizes.frames) & ~(log_z <= IMPOSSIBLE)
    blanks, labels = jnp.split(jnp.where(counts[:, None], each, 0), 2, axis=1)
    return log_z, States(blanks, labels[:, 1:])


def forward(potentials: States, sizes: Sizes, plus: Plus) -> tuple[States, jax.Array]:
    """ln α_t [T, L+1] of blanks and of the labels before them, up to a constant of the frame, and ln Z.

    plus: logaddexp for the sum of all paths, maximum for the best one.
    """
    skips = _skips(sizes)

    def step(weights, x):
        blanks, labels = weights
        both = plus(blanks, labels)
        onward = _shift(jnp.where(skips, both, blanks), (1, -1, 0))
        weights, peak = relative(States(both + x.blanks, plus(labels, onward) + x.labels))
        return weights, (weights, peak)

    xs = _padded(potentials)
    start = jnp.where(jnp.arange(len(skips)) == 0, 0, LOG_ZERO).astype(xs.labels.dtype) + 0 * xs.labels[0]
    last, (alpha, peaks) = jax.lax.scan(step, States(start, 0 * start + LOG_ZERO), xs)
    end = plus(last.blanks, last.labels)
    return alpha, settle(pairwise_sum(peaks) + jnp.sum(jnp.where(jnp.arange(len(end)) == sizes.labels, end, 0)))


def backward(potentials: States, sizes: Sizes) -> States:
    """ln β_t [T, L+1], up to a constant of the frame."""
    skips = _skips(sizes)

    def step(after, x):
        blanks, labels = after.blanks + x.blanks, after.labels + x.labels
        both = jnp.logaddexp(blanks, _shift(labels, (-1, 1, 0)))
        before, _ = relative(States(both, jnp.logaddexp(labels, jnp.where(skips, both, blanks))))
        return before, after

    xs = _padded(potentials)
    end = jnp.where(jnp.arange(len(skips)) == sizes.labels, 0, LOG_ZERO).astype(xs.labels.dtype) + 0 * xs.labels[0]
    return jax.lax.scan(step, States(end, end), xs, reverse=True)[1]


@jax.jit
def best(potentials: States, sizes: Sizes) -> tuple[jax.Array, jax.Array]:
    """The path of the largest weight, int [T] with −1 in the padding, and that weight: Viterbi's algorithm. O(T L)."""
    scores, score = forward(potentials, sizes, jnp.maximum)
    return _trace(scores, sizes), score


@jax.jit
def sample(potentials: States, sizes: Sizes, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One path, int [T] with −1 in the padding, from Gumbel noise [T, 2L+1]: forwards, then drawn backwards; and ln Z.

    O(T L).
    """
    (blanks, labels), log_z = forward(potentials, sizes, jnp.logaddexp)
    scores = States(blanks + noise[:, ::2], labels + jnp.pad(noise[:, 1::2], ((0, 0), (1, 0))))
    return _trace(scores, sizes), log_z


def _trace(scores: States, sizes: Sizes) -> jax.Array:
    """States from the last one backwards: of those that lead to the next one, that with the largest score."""
    frames, size = scores.blanks.shape
    states = join(States(scores.blanks, scores.labels[:, 1:]))
    # from label to label, two states on
    skips = jnp.zeros(2 * size - 1, bool).at[3::2].set(~sizes.repeats[1:])

    def backtrack(state, scores):
        from_here = jnp.stack([scores[state], scores[state - 1], scores[state - 2]])
        allowed = jnp.stack([state >= 0, state >= 1, skips[state]])
        return state - jnp.argmax(jnp.where(allowed, from_here, -jnp.inf)).astype(state.dtype)

    end = 2 * sizes.labels
    two = states[jnp.maximum(sizes.frames - 1, 0)][jnp.stack([end, jnp.maximum(end - 1, 0)])]
    last = jnp.where((two[1] > two[0]) & (end > 0), end - 1, end)
    path = trace(last, backtrack, states[:-1], steps_mask(frames, sizes.frames))
    return jnp.where(jnp.arange(frames) < sizes.frames, path, -1)


def _padded(potentials: States) -> States:
    """Potentials [T, L+1] of the blanks, and of the labels before them; there is none before blank 0."""
    labels = jnp.pad(potentials.labels, ((0, 0), (1, 0)), constant_values=LOG_ZERO)
    return States(jnp.broadcast_to(potentials.blanks, labels.shape), labels)


def _skips(sizes: Sizes) -> jax.Array:
    """Whether label i may follow the label before it at once, for i = 1..L; the last entry does not matter."""
    return ~jnp.pad(sizes.repeats, (1, 1))[1:]


def _shift(a: jax.Array, edges: tuple[int, int, int]) -> jax.Array:
    return jax.lax.pad(a, jnp.asarray(LOG_ZERO, a.dtype), [edges])
