"""Segmentations to test on, and what is known of them: every one listed, and a float64 pass written apart from ours."""

import jax
import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import Segmentation, SemiMarkovPosterior


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


def scores(q: SemiMarkovPosterior, found: Segmentation) -> np.ndarray:
    """Log potential of each segmentation, a segment after the other."""
    initial, transitions, durations, emissions = (
        np.asarray(a, np.float64) for a in (q.initial, q.transitions, q.durations, q.states)
    )
    length, out = int(q.length), []
    for states, starts in zip(*found, strict=True):
        cuts = [*np.flatnonzero(starts[:length] == 1), length]
        total = initial[states[0]] + sum(emissions[t, states[t]] for t in range(length))
        for n, (start, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            lasts = durations[end - 1] if durations.ndim == 3 else durations
            total += lasts[states[start], end - start - 1]
            total += transitions[states[cuts[n - 1]], states[start]] if n else 0
        out.append(total)
    return np.array(out)


def enumerated(q: SemiMarkovPosterior) -> dict:
    """All segmentations, their probabilities, and ln Z."""
    found = listed(len(q.states), int(q.length), q.initial.size, q.durations.shape[-1])
    weight = scores(q, found)
    log_z = np.log(np.exp(weight - weight.max()).sum()) + weight.max()
    return {"found": found, "p": np.exp(weight - log_z), "log_partition": log_z, "score": weight.max()}


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


def stack(every) -> SemiMarkovPosterior:
    """A batch of one shape."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *every)
