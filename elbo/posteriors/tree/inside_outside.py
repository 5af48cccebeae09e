"""Inside and outside weights of trees in the probability domain: as fast as matrix products."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._devices import axes_of
from ..._devices import varying as varying_along
from ...numerics import LOG_ZERO, PRECISION
from ..structured.batching import fallback_together
from ..structured.binary import exponent, power_of_integer
from ..structured.rescaling import factors, negligible, ratio
from . import charts
from .charts import Chart, add, cut, update
from .parse import Parse, Shifted

# The floor, and the two bounds of `structured.rescaling`.
#
# The maxima of the potentials are taken out beforehand (`shift`), so all factors are at most 1. A span's weights β(A)
# are kept as v(A) 2^e with one integer e for the span and max v in [1/2, 1). Powers of two are exact: scales neither
# round nor drift. Before a span is rescaled its numbers are c_k v v' R summed over splits and symbols, with c_k <= 1
# the power of two of split k relative to the largest. Each product, factor and c_k loses `tiny` at most, or was raised
# to e tiny, so that less than n tiny is lost in all, n = 16 (T N² + 2 N P + P²). The floor λ = n tiny / eps is put
# under these numbers: above λ the loss is a rounding error like any other, and below it the number becomes λ, too large
# by at most λ. Hence, with o(A) = ∂ ln Z / ∂ (number before rescaling), as computed,
#     0 <= relative error of Z <= λ Σ_spans Σ_A o(A),   and for the root's sum, 8 S tiny / Z in its own scale.
# The outside pass loses `tiny` where its numbers are formed, but they count at most 1 / λ and less than n of them flow
# into one, so that is at most eps of a marginal. A sentence without a parse has all of Z from the floor, so its bound
# is at least 1. Only what is no hard zero is raised: what derives nothing (`derivable`) stays at 0.
#
# Without the outside pass: Σ_A v(A) ∂ ln Z / ∂ v(A) <= 1 is the probability of the span, and max v >= 1/2, so that one
# of these derivatives is at most 2. If the rules, and the root, differ by a factor of at most r between the
# nonterminals that can stand in one place, all derivatives of the span are at most 2 r, and Σ_A o(A) <= 2 r N 2^-norm.


class Rules(NamedTuple):
    """Rules by the kinds of their children, nonterminals or preterminals, each [A, B, C]."""

    nn: jax.Array
    pn: jax.Array
    np: jax.Array
    pp: jax.Array


class Inside(NamedTuple):
    """Inside weights of all spans.

    Attributes:
      values, exponents: β(A) = values(A) 2^exponents, charts of [N] and of scalars.
      norms: the exponent of each span relative to that of its heaviest split, [T, T+1] by start and width.
      before: of a word as the left child of a rule, Σ_b R(A, b, C) t(b), [T, A, C].
      after: of a word as the right child, Σ_c R(A, B, c) t(c), [2T, A, B], zeros from T on.
      total: the weight of all parses, in the scale of the whole sentence.
      log_z: ln Z, nats; `LOG_ZERO` or NaN where that is known beforehand.
      possible: whether there is a parse, as far as hard zeros tell.
      sound: whether all potentials are numbers.
    """

    values: Chart
    exponents: Chart
    norms: jax.Array
    before: jax.Array
    after: jax.Array
    total: jax.Array
    log_z: jax.Array
    possible: jax.Array
    sound: jax.Array


class Splits(NamedTuple):
    """The children of all spans of one width, and what becomes of their scales relative to the heaviest split.

    Attributes:
      left, right: both of two words or more, [count, K, N]; scale: [count, K].
      shorter_left: the right child is a word, [count, N]; scale_left: [count, 1].
      shorter_right: the left child is a word; scale_right: [count, 1].
      top: exponent of the heaviest split, [count].
    """

    left: jax.Array
    right: jax.Array
    scale: jax.Array
    shorter_left: jax.Array
    scale_left: jax.Array
    shorter_right: jax.Array
    scale_right: jax.Array
    top: jax.Array


_UNFILLED = -(2**20)


def log_partition(shifted: Shifted, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln Z, and whether it is known to be right; the inside pass only. O(T³ N² + T² N³ + T N P (N + P))."""
    frames, size, _ = shifted.sizes
    found = inside(as_factors(shifted), length)
    width = jnp.arange(frames + 1)
    within = (jnp.arange(frames)[:, None] + width <= length) & (width >= 2)
    norms = jnp.where(within, power_of_integer(-found.norms, found.total.dtype), 0)
    slopes = 2 * size * jnp.exp(_range(shifted)) * jnp.sum(norms)
    return found.log_z, right(floor(shifted) * slopes, shifted, found)


def inside(factors: Shifted, length: jax.Array) -> Inside:
    """Weights of all spans, from factors."""
    frames, size, _ = factors.sizes
    rules, tags, least = blocks(factors.rules), factors.tags, floor(factors)
    before = dot("ib,abc->iac", tags, rules.pn)
    after = jnp.pad(dot("ic,abc->iab", tags, rules.np), ((0, frames), (0, 0), (0, 0)))
    empty = charts.blank(frames, 0, (size,), tags.dtype), charts.blank(frames, _UNFILLED, (), jnp.int32)
    values, exponents, norms = varying((*empty, jnp.zeros((frames, frames + 1), jnp.int32)), before)
    zero = 0 * before[0, 0, 0]
    every = varying(jnp.ones((frames, frames + 1, size), bool), before)
    there = fallback_together(jnp.all(factors.rules > 0), every, derivable, factors)
    possible, sound = _possible(factors, there, length), jnp.isfinite(factors.offset)
    found = Inside(values, exponents, norms, before, after, zero, zero, possible, sound)

    def put(found, width, numbers, top):
        here = charts.cut(there, (0, width), (len(numbers), 1))[:, 0]
        numbers = jnp.where(here, jnp.maximum(numbers, least), 0)
        some = jnp.any(here, axis=-1)
        norm = jnp.where(some, exponent(jnp.max(numbers, axis=-1)).astype(jnp.int32) + 1, 0)
        return found._replace(
            values=found.values.put(width, numbers * power_of_integer(-norm, numbers.dtype)[:, None]),
            exponents=found.exponents.put(width, jnp.where(some, top + norm, _UNFILLED)),
            norms=charts.update(found.norms, norm[:, None], (0, width)),
        )

    def step(width, found, count, splits):
        s = children(found, width, count, splits)
        pairs = dot("ikb,ikc->ibc", s.left, s.right * s.scale[..., None])
        numbers = dot("ibc,abc->ia", pairs, rules.nn)
        numbers += s.scale_right * dot("iac,ic->ia", found.before[:count], s.shorter_right)
        words = charts.cut(found.after, (width - 1, 0), (count, size))
        numbers += s.scale_left * dot("iab,ib->ia", words, s.shorter_left)
        return put(found, width, numbers, s.top)

    if frames > 1:
        numbers = dot("ibc,abc->ia", tags[:-1, :, None] * tags[1:, None, :], rules.pp)
        found = put(found, 2, numbers, jnp.zeros(frames - 1, jnp.int32))
    found = charts.sweep(frames, step, found)
    whole, digits = (charts.cut(c.by_start, (0, length), (1, 1))[0, 0] for c in (found.values, found.exponents))
    word = jnp.dot(factors.root[size:], tags[0], precision=PRECISION)
    whole = jnp.dot(factors.root[:size], whole, precision=PRECISION)
    total = jnp.where(length == 1, word, whole)
    log_2 = jnp.log(jnp.asarray(2, total.dtype))
    log_z = jnp.log(total) + jnp.where(length == 1, 0, digits) * log_2 + factors.offset
    log_z = jnp.where(sound, jnp.where(possible, log_z, LOG_ZERO), jnp.nan)
    return found._replace(total=total, log_z=log_z)


def derivable(factors: Shifted) -> jax.Array:
    """Whether some parse of a span is an A, as far as hard zeros tell, bool [T, T+1, N] by start and width."""
    frames, size, _ = factors.sizes
    dtype = factors.tags.dtype
    rules, tags = (jax.tree.map(lambda a: (a > 0).astype(dtype), a) for a in (blocks(factors.rules), factors.tags))
    before = dot("ib,abc->iac", tags, rules.pn)
    after = jnp.pad(dot("ic,abc->iab", tags, rules.np), ((0, frames), (0, 0), (0, 0)))
    found = varying(charts.blank(frames, 0, (size,), dtype, parts=1), before)

    def put(found, width, numbers):
        return found.put(width, (numbers > 0).astype(dtype))

    def step(width, found, count, splits):
        pairs = dot("ikb,ikc->ibc", found.left(count, splits), found.right(width, count, splits))
        numbers = dot("ibc,abc->ia", pairs, rules.nn)
        numbers += dot("iac,ic->ia", before[:count], found.shorter_right(width, count))
        words = charts.cut(after, (width - 1, 0), (count, size))
        return put(found, width, numbers + dot("iab,ib->ia", words, found.shorter_left(width, count)))

    if frames > 1:
        found = put(found, 2, dot("ibc,abc->ia", tags[:-1, :, None] * tags[1:, None, :], rules.pp))
    return charts.sweep(frames, step, found, parts=1).by_start > 0


def _possible(factors: Shifted, there: jax.Array, length: jax.Array) -> jax.Array:
    """Whether there is a parse, as far as hard zeros tell."""
    frames, size, _ = factors.sizes
    words = jnp.all(jnp.any(factors.tags > 0, axis=1) | (jnp.arange(frames) >= length))
    whole = jnp.any((factors.root[:size] > 0) & charts.cut(there, (0, length), (1, 1))[0, 0])
    word = jnp.any((factors.root[size:] > 0) & (factors.tags[0] > 0))
    return words & jnp.where(length == 1, word, whole)


def children(found: Inside, width: jax.Array, count: int, splits: int) -> Splits:
    """Children of the spans of one width >= 3."""
    values, exponents = found.values, found.exponents
    pairs = exponents.left(count, splits) + exponents.right(width, count, splits)
    left, right = exponents.shorter_left(width, count), exponents.shorter_right(width, count)
    top = jnp.maximum(jnp.max(pairs, axis=1), jnp.maximum(left, right))
    top = jnp.maximum(top, _UNFILLED)  # spans past the end of the chart
    scale = [power_of_integer(e - top[:, None], values.by_start.dtype) for e in (pairs, left[:, None], right[:, None])]
    return Splits(
        *(values.left(count, splits), values.right(width, count, splits), scale[0]),
        *(values.shorter_left(width, count), scale[1], values.shorter_right(width, count), scale[2]),
        top,
    )


def as_factors(shifted: Shifted) -> Shifted:
    """exp of shifted potentials, see `rescaling.factors`."""
    return Shifted(factors(shifted.root), factors(shifted.rules), factors(shifted.tags), shifted.offset)


def blocks(rules: jax.Array) -> Rules:
    """Rules [N, S, S] by kinds of children."""
    size = len(rules)
    return Rules(rules[:, :size, :size], rules[:, size:, :size], rules[:, :size, size:], rules[:, size:, size:])


def floor(potentials: Shifted) -> float:
    """λ."""
    frames, size, tags = potentials.sizes
    return 16 * (frames * size**2 + 2 * size * tags + tags**2) * ratio(potentials.tags.dtype)


def right(lost: jax.Array, shifted: Shifted, found: Inside) -> jax.Array:
    """Whether ln Z is right; lost: what the spans may have lost, relative to Z. The sum over the root loses as well."""
    lost += 8 * shifted.root.size * jnp.finfo(lost.dtype).tiny / found.total
    return negligible(lost) | ~found.possible | ~found.sound


def dot(subscripts: str, *operands: jax.Array) -> jax.Array:
    """A contraction in full precision."""
    return jnp.einsum(subscripts, *operands, precision=PRECISION)


def varying(tree, like: jax.Array):
    """Arrays that vary over the devices of a jax.shard_map as another does: a loop may not change that."""
    return varying_along(tree, axes_of(like))


def _range(shifted: Shifted) -> jax.Array:
    """The largest difference between the potentials of nonterminals that can stand in one place, nats."""
    rules = blocks(shifted.rules)
    ends = shifted.root[: len(rules.nn)]
    places = [(ends, 0), (rules.nn, 1), (rules.nn, 2), (rules.pn, 2), (rules.np, 1)]
    return jnp.max(jnp.stack([jnp.max(jnp.max(a, axis=i) - jnp.min(a, axis=i)) for a, i in places]))


class Outside(NamedTuple):
    """∂ ln Z in what the inside pass made, as it is summed up.

    Attributes:
      chart: in the weights of the spans: as left children by start, as right children by end. Both are summed.
      spans: marginals, [T, T+1, N] by start and width.
      pairs: in the rules between nonterminals, without the rules as factors, [N, N, N].
      before, after: in those of `Inside`.
      slopes: the sum of all o(A), see above.
    """

    chart: Chart
    spans: jax.Array
    pairs: jax.Array
    before: jax.Array
    after: jax.Array
    slopes: jax.Array


def smooth(shifted: Shifted, length: jax.Array) -> tuple[tuple[jax.Array, Parse, jax.Array], jax.Array]:
    """(ln Z, marginals, those of the spans [T, T+1, N] by start and width), and whether they are known to be right.

    About four times the work of the inside pass.
    """
    frames, size, _ = shifted.sizes
    factors = as_factors(shifted)
    rules = blocks(factors.rules)
    found = inside(factors, length)
    # nothing flows down where no parse is possible, and NaN where a potential is no number
    share = jnp.where(found.possible, factors.root / jnp.where(found.total > 0, found.total, jnp.nan), 0)
    share = jnp.where(found.sound, share, jnp.nan)
    whole = jnp.where(length == 1, 0, share[:size])
    word = jnp.where(length == 1, share[size:] * factors.tags[0], 0)
    top = cut(found.values.by_start, (0, length), (1, 1))[0, 0]

    chart = varying(charts.blank(frames, 0, (size,), share.dtype), share)
    chart = chart._replace(by_start=update(chart.by_start, whole[None, None], (0, length)))
    pairs = varying(jnp.zeros((size, size, size), share.dtype), share)
    zeros = 0 * found.before, 0 * found.after, 0 * found.total
    start = Outside(chart, 0 * chart.by_start, pairs, *zeros)

    def step(width, out, count, splits):
        return _down(found, rules, floor(shifted), width, out, count, splits)

    out = charts.sweep(frames, step, start, reverse=True)
    tags, after = factors.tags, out.after[:frames]
    each = dot("iac,abc->ib", out.before, rules.pn) + dot("iab,abc->ic", after, rules.np)
    counts = Rules(out.pairs, dot("ib,iac->abc", tags, out.before), dot("ic,iab->abc", tags, after), 0 * rules.pp)
    if frames > 1:
        weights, out = _enter(found, floor(shifted), 2, out, frames - 1)
        slopes = dot("ia,abc->ibc", weights, rules.pp)
        each = each.at[:-1].add(dot("ibc,ic->ib", slopes, tags[1:]))
        each = each.at[1:].add(dot("ibc,ib->ic", slopes, tags[:-1]))
        counts = counts._replace(pp=dot("ia,ibc->abc", weights, tags[:-1, :, None] * tags[1:, None, :]))
    upper, lower = jnp.concatenate(counts[0::2], axis=2), jnp.concatenate(counts[1::2], axis=2)
    total = jnp.concatenate([upper, lower], axis=1) * factors.rules
    root, words = jnp.concatenate([whole * top, word]), (each * tags).at[0].add(word)
    marginals = Parse(jnp.minimum(root, 1), total, jnp.minimum(words, 1))
    return (found.log_z, marginals, out.spans), right(floor(shifted) * out.slopes, shifted, found)


def _enter(found: Inside, least: float, width, out: Outside, count: int) -> tuple[jax.Array, Outside]:
    """o(A) of the spans of one width [count, N], whose parents are all done; notes their marginals."""
    norm = power_of_integer(-cut(found.norms, (0, width), (count, 1)), out.spans.dtype)
    outer = cut(out.chart.by_start, (0, width), (count, 1)) + cut(
        out.chart.by_end, (width, out.chart.frames - width), (count, 1)
    )
    inner = cut(found.values.by_start, (0, width), (count, 1))
    # numbers at the floor are there for the bound only
    marginals = jnp.minimum(outer * jnp.where(inner > least * norm[..., None], inner, 0), 1)
    weights = outer[:, 0] * norm
    return weights, out._replace(spans=update(out.spans, marginals, (0, width)), slopes=out.slopes + jnp.sum(weights))


def _down(found: Inside, rules: Rules, least: float, width, out: Outside, count: int, splits: int) -> Outside:
    """From the spans of one width to their children, the rules and the words beside them."""
    frames, size = out.chart.frames, len(rules.nn)
    weights, out = _enter(found, least, width, out, count)
    s = children(found, width, count, splits)
    right = s.right * s.scale[..., None]
    slopes = dot("ia,abc->ibc", weights, rules.nn)
    to_left = dot("ibc,ikc->ikb", slopes, right)
    to_right = dot("ibc,ikb->ikc", slopes, s.left * s.scale[..., None])
    pairs = dot("ia,ibc->abc", weights, dot("ikb,ikc->ibc", s.left, right))
    to_shorter_right = dot("ia,iac->ic", weights * s.scale_right, found.before[:count])
    to_shorter_left = dot("ia,iab->ib", weights * s.scale_left, cut(found.after, (width - 1, 0), (count, size)))
    by_start = out.chart.by_start.at[:count, 2 : 2 + splits].add(to_left)
    by_start = add(by_start, to_shorter_left[:, None], (0, width - 1))
    by_end = add(out.chart.by_end, to_right, (width, frames - width + 2))
    by_end = add(by_end, to_shorter_right[:, None], (width, frames - width + 1))
    to_before = (weights * s.scale_right)[:, :, None] * s.shorter_right[:, None, :]
    to_after = (weights * s.scale_left)[:, :, None] * s.shorter_left[:, None, :]
    return out._replace(
        chart=Chart(by_start, by_end),
        pairs=out.pairs + pairs,
        before=out.before.at[:count].add(to_before),
        after=add(out.after, to_after, (width - 1, 0)),
    )
