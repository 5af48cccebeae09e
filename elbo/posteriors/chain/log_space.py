"""Chains in log space: slow, right for all potentials, and differentiable by JAX itself any number of times."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import logsumexp

from ...numerics import IMPOSSIBLE, LOG_ZERO, within
from ..structured.frames import steps_mask
from ..structured.log_space import pairwise_sum, relative, settle, trace
from .path import Path


@jax.jit
def forward(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log weights of all paths that end in each state.

    Every frame has a scale of its own, so that a float32 keeps its digits however long the chain.

    Args:
      potentials: clean log potentials.
      length: frames that count.

    Returns:
      ln Z; ln α_t up to a constant of the frame, [T, K]; these constants (ln max_k of the frame), [T].
    """
    initial, transitions, states = potentials

    def step(before, x):
        emission, transition, counts = x
        transition = transitions if potentials.homogeneous else transition
        after, peak = relative(logsumexp(before[:, None] + transition, axis=0) + emission)
        after = jnp.where(counts, after, before)
        return after, (after, jnp.where(counts, peak, 0))

    first, peak = relative(initial + states[0])
    xs = (states[1:], None if potentials.homogeneous else transitions, steps_mask(len(states), length))
    last, (alpha, peaks) = jax.lax.scan(step, first, xs)
    peaks = jnp.concatenate([peak[None], peaks])
    return settle(pairwise_sum(peaks) + logsumexp(last)), jnp.concatenate([first[None], alpha]), peaks


def backward(potentials: Path, length: jax.Array) -> jax.Array:
    """Log weights of all ways on from each state, ln β_t up to a constant of the frame, [T, K]; 0 in the last frame."""
    _, transitions, states = potentials

    def step(after, x):
        emission, transition, counts = x
        transition = transitions if potentials.homogeneous else transition
        before, _ = relative(logsumexp(transition + (emission + after)[None, :], axis=1))
        before = jnp.where(counts, before, after)
        return before, before

    end = 0 * states[-1]
    xs = (states[1:], None if potentials.homogeneous else transitions, steps_mask(len(states), length))
    _, beta = jax.lax.scan(step, end, xs, reverse=True)
    return jnp.concatenate([beta, end[None]])


@jax.jit
def smooth(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    """ln Z and the marginals, one frame after the other. O(T K²) time, O(T K) memory if homogeneous."""
    log_z, alpha, _ = forward(potentials, length)
    return log_z, marginals(potentials, length, log_z, alpha, backward(potentials, length), at_once=False)


def marginals(potentials, length, log_z, alpha, beta, at_once: bool) -> Path:
    """Marginals from ln α and ln β [T, K]; all zero if the chain is impossible.

    at_once: all steps' K x K tables in memory together, which is what a parallel machine wants.
    """
    _, transitions, states = potentials
    possible = ~(log_z <= IMPOSSIBLE)
    frames = (jnp.arange(len(states)) < length) & possible
    each = jnp.where(frames[:, None], within(jax.nn.softmax(alpha + beta, axis=-1), 0, 1), 0)

    def step(before, after, transition, counts):
        pairs = before[:, None] + transition + after[None, :]
        return jnp.where(counts, within(jnp.exp(pairs - logsumexp(pairs)), 0, 1), 0)

    xs = (alpha[:-1], states[1:] + beta[1:], frames[1:])
    if not potentials.homogeneous:
        counts = jax.vmap(step)(*xs[:2], transitions, xs[2])
    elif at_once:
        counts = jnp.sum(jax.vmap(step, (0, 0, None, 0))(*xs[:2], transitions, xs[2]), axis=0)
    else:
        start = jnp.zeros_like(transitions) + 0 * alpha[0, 0]
        counts, _ = jax.lax.scan(lambda n, x: (n + step(*x[:2], transitions, x[2]), None), start, xs)
    return Path(each[0], counts, each)


@jax.jit
def parallel(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    """ln Z and the marginals in O(ln T) dependent steps: prefix products of K x K matrices in the (logsumexp, +) ring.

    O(T K³) work and O(T K²) memory; for accelerators. Särkkä and García-Fernández, "Temporal parallelization of
    Bayesian smoothers", IEEE Transactions on Automatic Control 66, 2021; here for finitely many states.
    """
    initial, transitions, states = potentials
    size = initial.size
    counts = steps_mask(len(states), length)[:, None, None]
    identity = jnp.where(jnp.eye(size, dtype=bool), 0, LOG_ZERO).astype(states.dtype)
    first, peak = relative(initial + states[0])
    if len(states) == 1:
        log_z = settle(peak + logsumexp(first))
        return log_z, marginals(potentials, length, log_z, first[None], 0 * states, at_once=True)
    matrices, scales = _scaled_matrix(jnp.where(counts, transitions + states[1:, None, :], identity))

    def product(left, right):
        (a, c), (b, d) = left, right
        joined, scale = _scaled_matrix(logsumexp(a[..., :, :, None] + b[..., None, :, :], axis=-2))
        return joined, c + d + scale

    heads, sums = jax.lax.associative_scan(product, (matrices, scales))
    tails, _ = jax.lax.associative_scan(lambda a, b: product(b, a), (matrices, scales), reverse=True)
    alpha = jnp.concatenate([first[None], logsumexp(first[:, None] + heads, axis=1)])
    beta = jnp.concatenate([logsumexp(tails, axis=2), 0 * states[-1:]])
    log_z = settle(peak + sums[-1] + logsumexp(alpha[-1]))
    return log_z, marginals(potentials, length, log_z, alpha, beta, at_once=True)


@jax.jit
def best(potentials: Path, length: jax.Array) -> jax.Array:
    """The path of the largest weight, int [T] with -1 in the padding: Viterbi's algorithm. O(T K²)."""
    initial, transitions, states = potentials
    inside = steps_mask(len(states), length)

    def step(before, x):
        emission, transition, counts = x
        transition = transitions if potentials.homogeneous else transition
        scores = before[:, None] + transition
        after, _ = relative(jnp.max(scores, axis=0) + emission)
        return jnp.where(counts, after, before), jnp.argmax(scores, axis=0)

    first, _ = relative(initial + states[0])
    xs = (states[1:], None if potentials.homogeneous else transitions, inside)
    last, origins = jax.lax.scan(step, first, xs)
    return trace(jnp.argmax(last), lambda state, origin: origin[state], origins, inside)


@jax.jit
def sample(potentials: Path, length: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One path, int [T] with -1 in the padding, from Gumbel noise [T, K]: filter forwards, then draw backwards.

    And ln Z, which says whether there is a path. Scott, "Bayesian methods for hidden Markov models", JASA 97, 2002.
    """
    _, transitions, states = potentials
    log_z, alpha, _ = forward(potentials, length)
    inside = steps_mask(len(states), length)
    scores = alpha + noise

    def backtrack(state, x):
        score, transition = x
        transition = transitions if potentials.homogeneous else transition
        return jnp.argmax(score + transition[:, state])

    # the weights of the last frame are carried to the end of the padding, but not its noise
    last = jnp.argmax(alpha[-1] + noise[length - 1])
    xs = (scores[:-1], None if potentials.homogeneous else transitions)
    return trace(last, backtrack, xs, inside), log_z


def _scaled_matrix(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    peak = stop_gradient(jnp.max(weights, axis=(-2, -1)))
    return jnp.maximum(weights - peak[..., None, None], LOG_ZERO), peak
