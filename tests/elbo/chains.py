"""Chains to test on, and what is known of them: every path listed, and numpy float64 in log space."""

from dataclasses import replace
from itertools import product

import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import ChainPosterior

from .enumeration import Enumerated, Values, enumerate_values


def random_chain(seed, frames, states, *, homogeneous=True, length=None, spread=1.0) -> ChainPosterior:
    """A chain with NaN in its padding."""
    length = frames if length is None else length
    rng = np.random.default_rng(seed)
    initial = spread * rng.normal(size=states)
    transition = spread * rng.normal(size=(states, states) if homogeneous else (frames - 1, states, states))
    emission = spread * rng.normal(size=(frames, states))
    emission[length:] = np.nan
    if not homogeneous:
        transition[length - 1 :] = np.nan
    return ChainPosterior(
        jnp.asarray(initial), jnp.asarray(transition), jnp.asarray(emission), jnp.asarray(length, jnp.int32)
    )


def listed(length, states) -> np.ndarray:
    """Every path, [K^L, L]."""
    return np.array(list(product(range(states), repeat=length)))


def values(q: ChainPosterior) -> Values:
    """Every path."""
    length, (frames, states) = int(q.length), q.states.shape
    paths = listed(length, states)
    each = np.zeros((len(paths), frames, states))
    each[:, :length] = np.eye(states)[paths]
    pairs = np.einsum("sti,stj->stij", each[:, :-1], each[:, 1:])
    found = np.pad(paths, ((0, 0), (0, frames - length)), constant_values=-1)
    return Values(found, [each[:, 0], pairs.sum(1) if q.transition.ndim == 2 else pairs, each])


def enumerated(q: ChainPosterior) -> Enumerated:
    """Everything about a chain from the list of its paths."""
    return enumerate_values(q, values(q).z)


def impossible(q: ChainPosterior) -> list[ChainPosterior]:
    """Of at least three frames: zeros in each array, and what they forbid together."""
    on = lambda a: jnp.broadcast_to(a, q.transition.shape)
    # from the first state on, one stays there; the last frame asks for another
    stuck = jnp.zeros(q.transition.shape[-2:]).at[0, 1:].set(LOG_ZERO)
    return [
        replace(q, initial=jnp.full_like(q.initial, -jnp.inf)),
        replace(q, transition=on(LOG_ZERO)),
        replace(q, states=q.states.at[1].set(-jnp.inf)),
        replace(q, initial=stuck[0], transition=on(stuck), states=q.states.at[2, 0].set(LOG_ZERO)),
    ]


def wrong(q: ChainPosterior) -> list[ChainPosterior]:
    """No numbers, and lengths out of range that only a run can see."""
    states = [q.states.at[at].set(x) for at, x in (((1, 1), jnp.nan), ((2, 1), jnp.nan), ((2, 0), jnp.inf))]
    lengths = [replace(q, length=jnp.array(n, jnp.int32)) for n in (0, len(q.states) + 1)]
    return [*(replace(q, states=a) for a in states), *lengths]


def _lse(x, axis):
    top = np.maximum(x.max(axis, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(x - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def smoothed(q: ChainPosterior) -> tuple:
    """(ln Z, (initial, transitions, states)) of a chain of full length in float64; ln 0 is −∞ here."""
    initial, transition, emission = (np.asarray(a, np.float64) for a in (q.initial, q.transition, q.states))
    initial, transition, emission = (
        np.where(a <= 1e-6 * LOG_ZERO, -np.inf, a) for a in (initial, transition, emission)
    )
    frames, states = emission.shape
    steps = transition if transition.ndim == 3 else np.broadcast_to(transition, (frames - 1, states, states))
    alpha, beta = np.empty((frames, states)), np.zeros((frames, states))
    alpha[0] = initial + emission[0]
    for t in range(1, frames):
        alpha[t] = _lse(alpha[t - 1][:, None] + steps[t - 1], 0) + emission[t]
    for t in range(frames - 1, 0, -1):
        beta[t - 1] = _lse(steps[t - 1] + emission[t] + beta[t], 1)
    log_z = _lse(alpha[-1], 0)
    if log_z == -np.inf:
        return log_z, (np.zeros(states), np.zeros(transition.shape), np.zeros((frames, states)))
    each = np.exp(alpha + beta - log_z)
    pairs = np.exp(alpha[:-1, :, None] + steps + (emission + beta)[1:, None, :] - log_z)
    return log_z, (each[0], pairs if transition.ndim == 3 else pairs.sum(0), each)


def forbidden(q: ChainPosterior) -> list:
    """Where no path leads, of the initial state, transitions and states of a chain of full length."""
    flat = (np.where(np.asarray(a) <= 1e-6 * LOG_ZERO, LOG_ZERO, 0.0) for a in (q.initial, q.transition, q.states))
    return [share == 0 for share in smoothed(ChainPosterior(*flat, q.length))[1]]
