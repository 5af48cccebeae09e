"""Chains to test on, and what is known of them: every path listed, and numpy float64 in log space."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import ChainPosterior


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


def scores(initial, transition, emission, paths):
    """Log potential of each path; of numpy arrays or differentiable."""
    t = np.arange(paths.shape[1])
    here, there = paths[:, :-1], paths[:, 1:]
    steps = transition[here, there] if transition.ndim == 2 else transition[t[:-1], here, there]
    return initial[paths[:, 0]] + steps.sum(1) + emission[t, paths].sum(1)


def enumerated(q: ChainPosterior) -> dict:
    """Everything about a chain from the list of its paths."""
    length, states = int(q.length), q.initial.size
    paths = listed(length, states)
    weight = scores(*(np.asarray(a, np.float64) for a in (q.initial, q.transition, q.states)), paths)
    log_z = np.log(np.exp(weight - weight.max()).sum()) + weight.max()
    p = np.exp(weight - log_z)
    each = np.eye(states)[paths]
    state_marginals = np.zeros(q.states.shape)
    state_marginals[:length] = np.einsum("s,stk->tk", p, each)
    pairs = np.einsum("s,sti,stj->tij", p, each[:, :-1], each[:, 1:])
    transitions = pairs.sum(0)
    if q.transition.ndim == 3:
        transitions = np.zeros(q.transition.shape)
        transitions[: length - 1] = pairs
    return {
        "paths": paths,
        "p": p,
        "log_partition": log_z,
        "mean": (state_marginals[0], transitions, state_marginals),
        "entropy": -np.sum(p * np.log(np.where(p > 0, p, 1))),
        "best": paths[weight.argmax()],
        "score": weight.max(),
    }


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


def stack(chains) -> ChainPosterior:
    """A batch of chains of one shape."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *chains)
