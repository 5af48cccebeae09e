"""Alignments by brute force: every path listed, and a float64 pass in log space written apart from ours."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import AlignmentPosterior

from .enumeration import Values


def listed(frames, repeats):
    """Every path through the states of len(repeats) labels, int [paths, frames]."""
    size = 2 * len(repeats) + 1
    paths = [[s] for s in (0, 1) if s < size]
    for _ in range(frames - 1):
        longer = []
        for path in paths:
            s = path[-1]
            longer += [[*path, n] for n in (s, s + 1) if n < size]
            if s % 2 and s + 2 < size and not repeats[s // 2 + 1]:
                longer.append([*path, s + 2])
        paths = longer
    return np.array([p for p in paths if p[-1] >= size - 2], int).reshape(-1, frames)


def random_alignment(seed, length, count, repeat=False, frames=5, labels=2) -> AlignmentPosterior:
    """NaN in all padding; whether the second label repeats the first."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(frames, 2 * labels + 1))
    states[length:], states[:, 2 * count + 1 :] = np.nan, np.nan
    repeats = np.zeros(labels, bool)
    repeats[1:2] = repeat
    sizes = (jnp.asarray(n, jnp.int32) for n in (length, count))
    return AlignmentPosterior(jnp.asarray(states), jnp.asarray(repeats), *sizes)


def values(q: AlignmentPosterior) -> Values:
    """Every path."""
    length, (frames, size) = int(q.length), q.states.shape
    paths = listed(length, np.asarray(q.repeats)[: int(q.count)])
    each = np.zeros((len(paths), frames, size))
    each[:, :length] = np.eye(size)[paths]
    return Values(np.pad(paths, ((0, 0), (0, frames - length)), constant_values=-1), [each])


def impossible(q: AlignmentPosterior) -> list[AlignmentPosterior]:
    """Of two labels and at least three frames."""
    number = lambda n: jnp.array(n, jnp.int32)
    return [
        replace(q, states=q.states.at[1].set(-jnp.inf)),
        replace(q, states=q.states.at[:, 1].set(LOG_ZERO)),
        replace(q, length=number(1)),
        replace(q, repeats=jnp.array([False, True]), length=number(2)),
    ]


def wrong(q: AlignmentPosterior) -> list[AlignmentPosterior]:
    """No numbers, and sizes out of range that only a run can see."""
    states = [((0, 4), jnp.nan), ((1, 1), jnp.nan), ((2, 0), jnp.nan), ((2, 4), jnp.inf)]
    sizes = [("length", len(q.states) + 1), ("count", 3), ("count", -1)]
    return [replace(q, states=q.states.at[at].set(x)) for at, x in states] + [
        replace(q, **{name: jnp.array(n, jnp.int32)}) for name, n in sizes
    ]


def smoothed(states, repeats):
    """ln Z and the marginals [T, 2L+1] of full lengths, float64 in log space; −∞ and zeros if nothing is possible."""
    states = np.where(np.asarray(states, np.float64) <= 1e-6 * LOG_ZERO, -np.inf, np.asarray(states, np.float64))
    frames, size = states.shape
    skips = np.zeros(size, bool)
    skips[3::2] = ~np.asarray(repeats)[1:]

    def arrive(before):
        one = np.concatenate([[-np.inf], before[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf, -np.inf], before[:-2]])[:size], -np.inf)
        return np.logaddexp(np.logaddexp(before, one), two)

    def leave(after):
        one = np.concatenate([after[1:], [-np.inf]])
        two = np.concatenate([np.where(skips, after, -np.inf)[2:], [-np.inf, -np.inf]])[:size]
        return np.logaddexp(np.logaddexp(after, one), two)

    forward, backward = np.full(states.shape, -np.inf), np.full(states.shape, -np.inf)
    forward[0, :2] = states[0, :2]
    backward[-1, -2:] = 0
    for t in range(1, frames):
        forward[t] = arrive(forward[t - 1]) + states[t]
    for t in range(frames - 2, -1, -1):
        backward[t] = leave(backward[t + 1] + states[t + 1])
    log_z = np.logaddexp.reduce(forward[-1, -2:])
    if log_z == -np.inf:
        return log_z, np.zeros(states.shape)
    return log_z, np.exp(forward + backward - log_z)
