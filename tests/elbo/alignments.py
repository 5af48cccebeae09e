"""Alignments by brute force: every path listed, and a float64 pass in log space written apart from ours."""

import numpy as np

import elbo


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


def enumerated(q):
    """ln Z, the marginals, the entropy, the best path and all paths with their probabilities, float64."""
    length, count = int(q.length), int(q.count)
    states, repeats = np.asarray(q.states, np.float64), np.asarray(q.repeats)[:count]
    paths = listed(length, repeats)
    scores = states[np.arange(length), paths].sum(1)
    log_z = np.logaddexp.reduce(scores, initial=-np.inf)
    p = np.exp(scores - log_z)
    mean = np.zeros(states.shape)
    for t in range(length):
        np.add.at(mean[t], paths[:, t], p)
    out = {"log_z": log_z, "p": p, "mean": mean, "paths": paths}
    if len(p):
        out |= {"entropy": -np.sum(p * np.log(p)), "best": paths[scores.argmax()], "score": scores.max()}
    return out


def smoothed(states, repeats):
    """ln Z and the marginals [T, 2L+1] of full lengths, float64 in log space; −∞ and zeros if nothing is possible."""
    states = np.where(np.asarray(states, np.float64) <= 1e-6 * elbo.LOG_ZERO, -np.inf, np.asarray(states, np.float64))
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
