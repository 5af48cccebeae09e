"""What a network trained with CTC says: greedy and beam search, forced alignment, and the rate of its errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import elbo

from .ctc_loss import pick


class Beams(NamedTuple):
    """Label sequences with their probabilities, the best first.

    Attributes:
      labels: int [W, M], −1 in the padding.
      lengths: int [W].
      log_probs: ln P(labels | logits) over the alignments that the search kept, [W], nats; it is a lower bound. Where
        there are fewer label sequences than beams it is −∞, with no labels.
    """

    labels: jax.Array
    lengths: jax.Array
    log_probs: jax.Array


def greedy(logits: jax.Array, length: jax.Array | None = None, *, blank: int = 0) -> elbo.Padded:
    """The labels of the best symbol of each frame: repetitions merged, then blanks dropped; int [T], −1 in the padding.

    Args:
      logits: [T, V] of one sequence.
      length: frames that count; all by default.

    >>> greedy(jax.nn.one_hot(jnp.array([0, 1, 1, 0, 1, 2]), 3)).values.tolist()
    [1, 1, 2, -1, -1, -1]
    """
    frames = len(logits)
    best = jnp.argmax(logits, axis=1).astype(jnp.int32)
    new = (best != blank) & jnp.concatenate([jnp.ones(1, bool), best[1:] != best[:-1]])
    new &= jnp.arange(frames) < (frames if length is None else length)
    where = jnp.where(new, jnp.cumsum(new) - 1, frames)
    values = jnp.full(frames, -1, jnp.int32).at[where].set(best, mode="drop")
    return elbo.Padded(values, jnp.sum(new, dtype=jnp.int32))


def beam_search(
    logits: jax.Array,
    length: jax.Array | None = None,
    *,
    beams: int = 16,
    most: int | None = None,
    blank: int = 0,
) -> Beams:
    """The most probable label sequences that prefix beam search finds. O(T W (V + W M)).

    A prefix's probability is the sum over its alignments, apart into those that end in a blank and those that end in
    its last label (Hannun et al. 2014). With as many beams as there are prefixes it is exact.

    Args:
      logits: [T, V] of one sequence; `jax.vmap` for a batch.
      length: frames that count; all by default.
      beams: W, prefixes kept after each frame.
      most: M, the longest sequence; T by default.

    >>> beam_search(jnp.log(jnp.array([[0.6, 0.4], [0.6, 0.4]])), beams=2).labels.tolist()  # 0.64 against 0.36
    [[1, -1], [-1, -1]]
    """
    if beams < 1:
        raise ValueError(f"beams: got {beams}, expected a positive number of prefixes")
    frames, size = logits.shape
    most = frames if most is None else most
    log_p = jnp.maximum(jax.nn.log_softmax(logits), elbo.LOG_ZERO)
    counts = jnp.arange(frames) < (frames if length is None else length)

    def step(state, x):
        now, counts = x
        labels, lengths, in_blank, in_label = state
        last = jnp.where(lengths > 0, jnp.take_along_axis(labels, jnp.maximum(lengths - 1, 0)[:, None], 1)[:, 0], blank)
        whole = jnp.logaddexp(in_blank, in_label)
        longer = now + jnp.where(jnp.arange(size) == last[:, None], in_blank[:, None], whole[:, None])
        impossible = (jnp.arange(size) == blank) | (lengths == most)[:, None]
        longer = jnp.where(impossible, elbo.LOG_ZERO, longer)
        stays = jnp.where(lengths > 0, in_label + now[last], elbo.LOG_ZERO)
        # prefix i and one more label may be prefix j
        parents = jnp.where(jnp.arange(most) == (lengths - 1)[:, None], -1, labels)
        same = jnp.all(labels[:, None] == parents[None], -1) & (lengths[:, None] + 1 == lengths[None])
        joined = jnp.max(jnp.where(same, longer[:, last], elbo.LOG_ZERO), 0)
        ends = Ends(whole + now[blank], jnp.logaddexp(stays, joined))
        taken = jnp.any(same[:, :, None] & (last[:, None] == jnp.arange(size)), axis=1)
        longer = jnp.where(taken, elbo.LOG_ZERO, longer)

        scores, which = jax.lax.top_k(jnp.concatenate([jnp.logaddexp(*ends), longer.ravel()]), beams)
        stay = which < beams
        origin = jnp.where(stay, which, (which - beams) // size)
        symbol = (which - beams) % size
        grown = (jnp.arange(most) == lengths[origin][:, None]) & ~stay[:, None]
        new = (
            jnp.where(grown, symbol[:, None], labels[origin]),
            lengths[origin] + ~stay,
            jnp.where(stay, ends.blank[origin], elbo.LOG_ZERO),
            jnp.where(stay, ends.label[origin], scores),
        )
        return jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, state), None

    nothing = jnp.full(beams, elbo.LOG_ZERO, log_p.dtype) + 0 * log_p[0, 0]
    start = (
        jnp.full((beams, most), -1, jnp.int32),
        jnp.zeros(beams, jnp.int32),
        nothing.at[0].set(0),
        nothing,
    )
    (labels, lengths, in_blank, in_label), _ = jax.lax.scan(step, start, (log_p, counts))
    log_probs, order = jax.lax.top_k(jnp.logaddexp(in_blank, in_label), beams)
    none = log_probs <= elbo.numerics.IMPOSSIBLE
    labels, lengths = jnp.where(none[:, None], -1, labels[order]), jnp.where(none, 0, lengths[order])
    return Beams(labels, lengths, jnp.where(none, -jnp.inf, log_probs))


class Ends(NamedTuple):
    """Log probabilities of prefixes, apart by what their alignments end in."""

    blank: jax.Array
    label: jax.Array


def posterior(
    logits: jax.Array,
    labels: jax.Array,
    length: jax.Array | None = None,
    count: jax.Array | None = None,
    *,
    blank: int = 0,
) -> elbo.posteriors.AlignmentPosterior:
    """P(alignment | labels, logits) of one sequence: `best()` is the forced alignment, `mean()` says when labels occur.

    Args:
      logits: [T, V].
      labels: int [L].
      length, count: frames and labels that count; all by default.

    >>> q = posterior(9 * jax.nn.one_hot(jnp.array([0, 1, 2, 0]), 3), jnp.array([1, 2]))
    >>> [int(s) for s in q.best()[0]]  # blank, label 1, label 2, and so on
    [0, 1, 3, 4]
    """
    frames, size = len(logits), len(labels)
    log_p = jax.nn.log_softmax(jnp.maximum(logits, elbo.LOG_ZERO))
    states = jnp.broadcast_to(log_p[:, blank, None], (frames, 2 * size + 1)).at[:, 1::2].set(pick(log_p, labels, blank))
    repeats = jnp.concatenate([jnp.zeros(min(size, 1), bool), labels[1:] == labels[:-1]])
    length = jnp.asarray(frames if length is None else length, jnp.int32)
    count = jnp.asarray(size if count is None else count, jnp.int32)
    return elbo.posteriors.AlignmentPosterior(states, repeats, length, count)


def edit_distance(a: elbo.Padded, b: elbo.Padded) -> jax.Array:
    """The fewest insertions, deletions and substitutions that make a into b (Levenshtein), an int. O(len a · len b).

    >>> edit_distance(elbo.Padded(jnp.array([1, 2, 3]), 3), elbo.Padded(jnp.array([2, 3, 9]), 2)).tolist()
    1
    """
    place = jnp.arange(b.frames + 1)

    def step(row, x):
        symbol, counts = x
        kept = jnp.minimum(row[1:] + 1, row[:-1] + (b.values != symbol))
        new = jnp.concatenate([row[:1] + 1, kept])
        # an insertion costs 1 a place: the least of all entries to the left, each with its way
        new = jax.lax.cummin(new - place) + place
        return jnp.where(counts, new, row), None

    return jax.lax.scan(step, place, (a.values, a.mask()))[0][b.length]


def label_error_rate(decoded: elbo.Padded, labels: elbo.Padded) -> jax.Array:
    """Edit distances of a batch, over the number of its labels; both have a leading axis N.

    >>> batch = elbo.Padded(jnp.array([[1, 2], [1, 2]]), jnp.array([2, 1]))
    >>> label_error_rate(batch, elbo.Padded(jnp.array([[1, 3], [1, 2]]), jnp.array([2, 2]))).tolist()
    0.5
    """
    return jnp.sum(jax.vmap(edit_distance)(decoded, labels)) / jnp.sum(labels.length)
