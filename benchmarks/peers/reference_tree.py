"""The judge of parse trees: plain NumPy in float64, span by span, written apart from everything that it judges."""

import numpy as np


def inside_outside(root: np.ndarray, rules: np.ndarray, tags: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """ln Z of one sentence of log potentials [N], [N, S, S], [T, P], and marginals of the same shapes."""
    root, rules, tags = (np.exp(np.asarray(a, np.float64)) for a in (root, rules, tags))
    size, frames = len(root), len(tags)
    inner = np.zeros((frames, frames + 1, rules.shape[1]))
    inner[np.arange(frames), np.arange(1, frames + 1), size:] = tags
    spans = [(i, i + width) for width in range(2, frames + 1) for i in range(frames - width + 1)]
    for i, j in spans:
        pairs = inner[i, i + 1 : j].T @ inner[i + 1 : j, j]
        inner[i, j, :size] = np.tensordot(rules, pairs, 2)
    z = root @ inner[0, frames, :size]
    outer = np.zeros_like(inner)
    outer[0, frames, :size] = root / z
    counts = np.zeros_like(rules)
    for i, j in reversed(spans):
        left, right = inner[i, i + 1 : j], inner[i + 1 : j, j]
        counts += outer[i, j, :size, None, None] * (left.T @ right)
        slopes = np.tensordot(outer[i, j, :size], rules, 1)
        outer[i, i + 1 : j] += right @ slopes.T
        outer[i + 1 : j, j] += left @ slopes
    words = outer[np.arange(frames), np.arange(1, frames + 1), size:]
    return np.log(z), (root / z * inner[0, frames, :size], counts * rules, words * tags)


def sentences(data) -> dict[str, np.ndarray]:
    """ln Z and marginals of a batch of sentences with one grammar."""
    found = [inside_outside(data.root, data.rules, tags) for tags in data.tags]
    marginals = zip(*[parts for _, parts in found], strict=True)
    return {"ln Z": np.array([log_z for log_z, _ in found]), "marginals": tuple(np.stack(a) for a in marginals)}
