"""Segmentations to test on, and what is known of them: every one listed, and a float64 pass written apart from ours."""

from dataclasses import replace
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import Segmentation, SemiMarkovPosterior

from .enumeration import Values


def random_semi_markov(
    seed, frames, states, longest, *, by_frame=False, length=None, spread=1.0
) -> SemiMarkovPosterior:
    """Potentials with NaN in the padding."""
    length = frames if length is None else length
    rng = np.random.default_rng(seed)
    initial, transitions = spread * rng.normal(size=states), spread * rng.normal(size=(states, states))
    durations = spread * rng.normal(size=(frames, states, longest) if by_frame else (states, longest))
    emissions = spread * rng.normal(size=(frames, states))
    emissions[length:] = np.nan
    if by_frame:
        durations[length:] = np.nan
    arrays = (jnp.asarray(a) for a in (initial, transitions, durations, emissions))
    return SemiMarkovPosterior(*arrays, jnp.asarray(length, jnp.int32))


def listed(frames, length, states, longest) -> Segmentation:
    """Every segmentation, [S, T] with −1 in the padding."""
    found = []

    def extend(before):
        done = sum(d for _, d in before)
        if done == length:
            found.append(before)
        for d in range(1, min(longest, length - done) + 1):
            for k in range(states):
                extend([*before, (k, d)])

    extend([])
    rows = np.full((2, len(found), frames), -1)
    for i, segments in enumerate(found):
        rows[0, i, :length] = [k for k, d in segments for _ in range(d)]
        rows[1, i, :length] = [int(n == 0) for _, d in segments for n in range(d)]
    return Segmentation(*rows)


def values(q: SemiMarkovPosterior) -> Values:
    """Every segmentation."""
    found = listed(len(q.states), int(q.length), q.initial.size, q.durations.shape[-1])
    initial, transitions, durations, each = (
        np.zeros((len(found.states), *a.shape)) for a in (q.initial, q.transitions, q.durations, q.states)
    )
    for i, (states, starts) in enumerate(zip(*found, strict=True)):
        initial[i, states[0]] = 1
        each[i, np.arange(int(q.length)), states[: int(q.length)]] = 1
        cuts = [*np.flatnonzero(starts == 1), int(q.length)]
        np.add.at(transitions[i], (states[cuts[:-2]], states[cuts[1:-1]]), 1)
        for start, end in pairwise(cuts):
            lasts = durations[i, end - 1] if durations.ndim == 4 else durations[i]
            lasts[states[start], end - start - 1] += 1
    return Values(found, [initial, transitions, durations, each])


def impossible(q: SemiMarkovPosterior) -> list[SemiMarkovPosterior]:
    """Of three frames and segments of at most two."""
    return [
        replace(q, initial=jnp.full(2, -jnp.inf)),
        replace(q, transitions=jnp.full((2, 2), LOG_ZERO)),  # three frames are more than one segment
        replace(q, states=q.states.at[1].set(-jnp.inf)),
        replace(q, durations=q.durations.at[..., 0].set(LOG_ZERO)),  # an odd number is no sum of twos
    ]


def wrong(q: SemiMarkovPosterior) -> list[SemiMarkovPosterior]:
    """No numbers, and lengths out of range that only a run can see."""
    states = [q.states.at[1, 1].set(jnp.nan), q.states.at[2, 0].set(jnp.inf)]
    lengths = [replace(q, length=jnp.array(n, jnp.int32)) for n in (0, len(q.states) + 1)]
    return [*(replace(q, states=a) for a in states), *lengths]


def log_partition(q: SemiMarkovPosterior) -> float:
    """ln Z in float64 by sums over whole segments, O(T L K²), of a sequence of full length; ln 0 is −∞ here."""
    initial, transitions, durations, emissions = (
        np.where(np.asarray(a, np.float64) <= 1e-6 * LOG_ZERO, -np.inf, np.asarray(a, np.float64))
        for a in (q.initial, q.transitions, q.durations, q.states)
    )
    frames, states = emissions.shape
    ends = np.full((frames + 1, states), -np.inf)
    for t in range(1, frames + 1):
        lasts = durations[t - 1] if durations.ndim == 3 else durations
        for d in range(1, min(t, durations.shape[-1]) + 1):
            before = np.logaddexp.reduce(ends[t - d][:, None] + transitions, 0) if d < t else initial
            ends[t] = np.logaddexp(ends[t], before + lasts[:, d - 1] + emissions[t - d : t].sum(0))
    return np.logaddexp.reduce(ends[-1])
