"""Trees in log space: slow, right for all potentials, and differentiable by JAX itself any number of times."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from ...numerics import IMPOSSIBLE, LOG_ZERO, within
from ..structured.log_space import settle
from . import charts
from .charts import Chart, cut
from .inside_outside import blocks, varying
from .parse import Parse, Shifted, Spans, shift

Reduce = Callable[..., jax.Array]
_PARTS = 2


def log_partition(potentials: Parse, spans: jax.Array, length: jax.Array) -> jax.Array:
    """ln Z, or `LOG_ZERO` without a parse; spans [T, T+1, N] are further log potentials, by start and width.

    O(T³ N² + T² N³ + T N P (N + P)).
    """
    shifted = shift(potentials, length)
    log_z = logsumexp(_ends(shifted, chart(shifted, spans, logsumexp), length))
    return jnp.where(log_z <= IMPOSSIBLE, LOG_ZERO, log_z + shifted.offset)


@jax.jit
def smooth(potentials: Parse, length: jax.Array) -> tuple[jax.Array, Parse, jax.Array]:
    """ln Z, the marginals, and those of the spans; all zero if no parse is possible."""
    log_z, (marginals, spans) = jax.value_and_grad(log_partition, (0, 1))(potentials, no_spans(potentials), length)
    root, tags, spans = (within(a, 0, 1) for a in (marginals.root, marginals.tags, spans))
    return log_z, marginals._replace(root=root, tags=tags), spans


def no_spans(potentials: Parse) -> jax.Array:
    """Zero potentials of the spans."""
    frames, size, _ = potentials.sizes
    return jnp.zeros((frames, frames + 1, size), potentials.tags.dtype)


def chart(shifted: Shifted, spans: jax.Array, reduce: Reduce) -> Chart:
    """ln β(A) of all spans of two words and more; with `max` for `logsumexp` that of the best parse of each."""
    frames, size, _ = shifted.sizes
    rules, tags = blocks(shifted.rules), shifted.tags
    before = reduce(rules.pn + tags[:, None, :, None], axis=2)
    after = reduce(rules.np + tags[:, None, None, :], axis=3)
    after = jnp.pad(after, ((0, frames), (0, 0), (0, 0)), constant_values=LOG_ZERO)
    found = charts.blank(frames, LOG_ZERO, (size,), tags.dtype, _PARTS)
    found = varying(found, before)

    def put(found, width, numbers):
        extra = cut(spans, (0, width), (len(numbers), 1))[:, 0]
        return found.put(width, jnp.maximum(numbers + extra, LOG_ZERO))

    # kept for the backward pass: the chart of each width, not all pairs of children
    @partial(jax.checkpoint, static_argnums=(2, 3))
    def numbers(width, found, count, splits):
        left, right = found.left(count, splits), found.right(width, count, splits)
        pairs = reduce(left[..., :, None] + right[..., None, :], axis=1)
        parts = [
            reduce(pairs[:, None] + rules.nn, axis=(2, 3)),
            reduce(before[:count] + found.shorter_right(width, count)[:, None, :], axis=2),
            reduce(cut(after, (width - 1, 0), (count, size)) + found.shorter_left(width, count)[:, None, :], axis=2),
        ]
        return reduce(jnp.stack(parts), axis=0)

    def step(width, found, count, splits):
        return put(found, width, numbers(width, found, count, splits))

    if frames > 1:
        pairs = tags[:-1, :, None] + tags[1:, None, :]
        found = put(found, 2, reduce(pairs[:, None] + rules.pp, axis=(2, 3)))
    return charts.sweep(frames, step, found, _PARTS)


@jax.jit
def best(potentials: Parse, spans: jax.Array, length: jax.Array) -> Spans:
    """The parse of the largest weight (Viterbi's algorithm for trees, CKY); all −1 if none is possible."""
    shifted = shift(potentials, length)
    found = chart(shifted, spans, jnp.max)

    def backtrack(table, i):
        del i
        return jnp.unravel_index(jnp.argmax(table), table.shape)

    ends = _ends(shifted, found, length)
    return _descend(shifted, found, jnp.where(_possible(ends), jnp.argmax(ends), -1), length, backtrack)


@jax.jit
def sample(
    potentials: Parse, length: jax.Array, noise: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[Spans, jax.Array]:
    """One parse from Gumbel noise [T, T+1], [T, S], [T, S]: the chart upwards, then draws downwards.

    In each span the split is drawn, then its left, then its right child. And ln Z up to a constant, `LOG_ZERO` and
    spans of −1 if no parse is possible.
    """
    shifted = shift(potentials, length)
    found = chart(shifted, no_spans(potentials), logsumexp)

    def backtrack(table, i):
        k = jnp.argmax(logsumexp(table, axis=(1, 2)) + noise[0][i])
        b = jnp.argmax(logsumexp(table[k], axis=1) + noise[1][i])
        return k, b, jnp.argmax(table[k, b] + noise[2][i])

    ends = _ends(shifted, found, length)
    # one span fewer than words: the last noise is free, the first one is so for sentences of all lengths
    symbol = jnp.where(_possible(ends), jnp.argmax(ends + noise[1][0]), -1)
    spans = _descend(shifted, found, symbol, length, lambda table, i: backtrack(table, i + 1))
    return spans, settle(logsumexp(ends))


def _descend(shifted: Shifted, found: Chart, symbol: jax.Array, length: jax.Array, backtrack: Callable) -> Spans:
    """A parse from the root's symbol (−1: none) down, one span a step, the others wait on a stack.

    `backtrack` gives split and children from the log weights of all, [T+1, S, S].
    """
    frames, size, tags = shifted.sizes
    width = jnp.arange(frames + 1)
    # words are spans of width 1
    chart = jnp.full((frames, frames + 1, size + tags), LOG_ZERO, shifted.tags.dtype)
    chart = chart.at[:, :, :size].set(found.by_start).at[:, 1, size:].set(shifted.tags)

    def push(stack, words, start, end, symbol, exists):
        entries, height = stack
        deep = exists & (symbol < size)
        entry = jnp.stack([start, end, symbol]).astype(jnp.int32)
        entries = entries.at[jnp.where(deep, height, frames)].set(entry, mode="drop")
        words = words.at[jnp.where(exists & ~deep, start, frames)].set(symbol.astype(jnp.int32) - size, mode="drop")
        return (entries, height + deep), words

    def step(carry, i):
        (entries, height), words = carry
        exists = height > 0
        start, end, label = entries[height - 1]
        proper = (width >= 1) & (width < end - start)
        right = chart[start + width, end - start - width]
        table = chart[start][:, :, None] + right[:, None, :] + shifted.rules[label]
        k, b, c = backtrack(jnp.where(proper[:, None, None], table, 2 * LOG_ZERO), i)
        stack, words = push((entries, height - exists), words, start + k, end, c, exists)
        stack, words = push(stack, words, start, start + k, b, exists)
        row = jnp.where(exists, jnp.stack([start, end, label, b, c]), -1)
        return (stack, words), row.astype(jnp.int32)

    entries = jnp.zeros((frames, 3), jnp.int32), jnp.zeros((), jnp.int32)
    first = jnp.zeros((), jnp.int32)
    carry = push(entries, jnp.full(frames, -1, jnp.int32), first, length.astype(jnp.int32), symbol, symbol >= 0)
    (_, words), rows = jax.lax.scan(step, carry, jnp.arange(frames - 1))
    start, end, label, left, right = rows.T
    return Spans(start, end, label, left, right, words)


def _ends(shifted: Shifted, found: Chart, length: jax.Array) -> jax.Array:
    """Log weights of the symbols of the whole sentence, [S]."""
    whole = cut(found.by_start, (0, length), (1, 1))[0, 0]
    single = length == 1
    return shifted.root + jnp.concatenate(
        [jnp.where(single, LOG_ZERO, whole), jnp.where(single, shifted.tags[0], LOG_ZERO)]
    )


def _possible(ends: jax.Array) -> jax.Array:
    return ~(jnp.max(ends) <= IMPOSSIBLE)
