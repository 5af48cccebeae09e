"""Relaxed paths of a chain: each argmax of the exact sampler is a softmax, the one before it reads a soft state."""

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp

from ...numerics import IMPOSSIBLE
from ..structured.frames import steps_mask
from . import log_space
from .path import Path


@jax.jit
def sample(potentials: Path, length: jax.Array, noise: jax.Array, temperature: jax.Array) -> Path:
    """One relaxed path from Gumbel noise [T, K]: filter forwards, then backwards

        w_t = softmax((ln α_t + noise_t + ln Σ_j exp(transition[:, j]) w_{t+1}(j)) / temperature)

    where α_t is filtered; a step's transition is the outer product of its two states. As the temperature falls w_t
    becomes the draw of `log_space.sample` from the same noise. The mixture is taken of probabilities, so that a
    transition of probability 0 costs a soft state only its share. Zeros if no path is possible. O(T K²).
    """
    _, transitions, states = potentials
    log_z, alpha, _ = log_space.forward(potentials, length)
    inside = steps_mask(len(states), length)

    def step(after, x):
        score, transition, counts = x
        transition = transitions if potentials.homogeneous else transition
        weights = log_softmax((score + logsumexp(transition + after, axis=1)) / temperature)
        return jnp.where(counts, weights, after), after

    # the weights of the last frame are carried to the end of the padding, but not its noise
    last = log_softmax((alpha[-1] + noise[length - 1]) / temperature)
    xs = ((alpha + noise)[:-1], None if potentials.homogeneous else transitions, inside)
    first, rest = jax.lax.scan(step, last, xs, reverse=True)
    soft = jnp.exp(jnp.concatenate([first[None], rest]))
    counts = (jnp.arange(len(states)) < length) & ~(log_z <= IMPOSSIBLE)
    soft = jnp.where(counts[:, None], soft, 0)
    pairs = "ti,tj->ij" if potentials.homogeneous else "ti,tj->tij"
    return Path(soft[0], jnp.einsum(pairs, soft[:-1], soft[1:]), soft)
