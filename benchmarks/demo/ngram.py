"""Interpolated Kneser-Ney n-grams of symbols, to compare language models with."""

import numpy as np


def kneser_ney(train: np.ndarray, test: np.ndarray, symbols: int, order: int) -> np.ndarray:
    """ln P of each text of a batch under n-grams that never look over the beginning of a text, [N], nats.

        p_n(v | h) = (max(c(hv) − d_n, 0) + d_n · kinds(h) · p_{n−1}(v | h′)) / c(h),   d_n = c₁ / (c₁ + 2 c₂)

    with c the number of times hv was seen for the longest context h, of different symbols before hv for the others, and
    p_0 = 1 / V. Kneser & Ney 1995, interpolated as by Chen & Goodman 1999.

    Args:
      train, test: int [N, T], 0..V−1.
      symbols: V.
      order: n, symbols of a gram: the longest context is n − 1.

    >>> text = np.array([[0, 1, 0, 1, 0, 1]])
    >>> bool(np.exp(kneser_ney(text, text, 2, 2))[0] > 2 * 0.5**6)
    True
    """
    seen = {n: _grams(train, n, symbols) for n in range(1, order + 1)}
    grams = {n: _grams(test, n, symbols) for n in range(1, order + 1)}
    base = symbols + 1
    p = np.full(test.size, 1 / symbols)
    for n in range(1, order + 1):
        if n == order:
            kinds, counts = np.unique(seen[n], return_counts=True)
        else:  # the longer grams, each once, without their first symbol
            kinds, counts = np.unique(np.unique(seen[n + 1]) % base**n, return_counts=True)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once else 0.5
        contexts, start = np.unique(kinds // base, return_index=True)  # kinds are sorted: a context's are neighbours
        total = np.add.reduceat(counts, start)
        followers = np.diff(np.append(start, len(kinds)))
        count = _look_up(grams[n], kinds, counts)
        whole = _look_up(grams[n] // base, contexts, total)
        spread = _look_up(grams[n] // base, contexts, followers)
        mixed = (np.maximum(count - discount, 0) + discount * spread * p) / np.maximum(whole, 1)
        p = np.where(whole > 0, mixed, p)
    return np.log(p).reshape(test.shape).sum(1)


def _grams(texts: np.ndarray, n: int, symbols: int) -> np.ndarray:
    """The last n symbols at each place as one number in base V + 1; V stands for what was before the beginning."""
    before = np.pad(texts.astype(np.int64), ((0, 0), (n - 1, 0)), constant_values=symbols)
    code = np.zeros(texts.shape, np.int64)
    for i in range(n):
        code = code * (symbols + 1) + before[:, i : i + texts.shape[1]]
    return code.ravel()


def _look_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each wanted key the value, or 0."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
