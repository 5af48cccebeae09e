"""Trees in the probability domain: as fast as matrix products, with a bound on what rescaling may have lost."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._devices import axes_of
from ..._devices import varying as varying_along
from ...numerics import IMPOSSIBLE, LOG_ZERO, PRECISION
from ..structured.batching import unless
from . import charts
from .charts import Chart
from .parse import Shifted

# Why rescaling is harmless, or is found out.
#
# The maxima of the potentials are taken out beforehand (`shift`), so all factors are at most 1. A span's weights
# β(A) are kept as v(A) 2^e with one integer e for the span and max v in [1/2, 1). Powers of two are exact: scales
# neither round nor drift. What is lost is only what is smaller than `tiny` where it is formed.
#
# How much that matters is what the outside weights say. The inside pass is therefore made to err upwards. Before a
# span is rescaled its numbers are c_k v v' R summed over splits and symbols, with c_k <= 1 the power of two of split k
# relative to the largest. Each product, factor and c_k loses `tiny` at most, or was raised to e tiny (hard zeros are
# 0), so that less than n tiny is lost in all, n = 16 (T N² + 2 N P + P²). The floor λ = n tiny / eps is put under
# these numbers. If a number is above λ, its loss is a rounding error like any other; if not, it becomes λ, which is
# too large, up to such a rounding error. So, apart from rounding, β is never too small, and each number is too large
# by at most λ. Z is linear in the weights of one span. Raise one number after the other, small spans first: each
# adds its own surplus times its outside weight, in which every number is true or raised, so at most the computed one.
# Hence, with o(A) = ∂ ln Z / ∂ (number before rescaling), as computed,
#     0 <= relative error of Z <= λ Σ_spans Σ_A o(A),   and for the root's sum, 8 S tiny / Z in its own scale,
# and the same bounds the total variation between true and computed distributions of parses, thus all marginals.
# The outside pass loses `tiny` where its numbers are formed, but they count at most 1 / λ and less than n of them
# flow into one, so that is at most eps of a marginal. If the bound is small the passes were right whatever the
# potentials are; if it is large or NaN, log space decides. A sentence without a parse has all of Z from the floor, so
# its bound is at least 1.
#
# Only numbers that are no hard zeros are raised: what derives nothing (`derivable`) stays at 0, as do all marginals of
# what cannot be.
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
    factors = as_factors(shifted)
    found = inside(factors, length)
    width = jnp.arange(frames + 1)
    within = (jnp.arange(frames)[:, None] + width <= length) & (width >= 2)
    norms = jnp.where(within, power(-found.norms, found.total.dtype), 0)
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
    there = unless(jnp.all(factors.rules > 0), every, derivable, factors)
    possible, sound = _possible(factors, there, length), jnp.isfinite(factors.offset)
    found = Inside(values, exponents, norms, before, after, zero, zero, possible, sound)

    def put(found, width, numbers, top):
        here = charts.cut(there, (0, width), (len(numbers), 1))[:, 0]
        numbers = jnp.where(here, jnp.maximum(numbers, least), 0)
        some = jnp.any(here, axis=-1)
        norm = jnp.where(some, _exponent(jnp.max(numbers, axis=-1)) + 1, 0)
        return found._replace(
            values=found.values.put(width, numbers * power(-norm, numbers.dtype)[:, None]),
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
    whole, exponent = (charts.cut(c.by_start, (0, length), (1, 1))[0, 0] for c in (found.values, found.exponents))
    word = jnp.dot(factors.root[size:], tags[0], precision=PRECISION)
    whole = jnp.dot(factors.root[:size], whole, precision=PRECISION)
    total = jnp.where(length == 1, word, whole)
    log_2 = jnp.log(jnp.asarray(2, total.dtype))
    log_z = jnp.log(total) + jnp.where(length == 1, 0, exponent) * log_2 + factors.offset
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
    scale = [power(e - top[:, None], values.by_start.dtype) for e in (pairs, left[:, None], right[:, None])]
    return Splits(
        *(values.left(count, splits), values.right(width, count, splits), scale[0]),
        *(values.shorter_left(width, count), scale[1], values.shorter_right(width, count), scale[2]),
        top,
    )


def as_factors(shifted: Shifted) -> Shifted:
    """exp of shifted potentials; hard zeros are 0, other factors at least e times the smallest normal number."""
    least = jnp.log(jnp.finfo(shifted.tags.dtype).tiny) + 1  # a number below tiny may be flushed to 0
    logs = shifted.root, shifted.rules, shifted.tags
    root, rules, tags = (jnp.where(a <= IMPOSSIBLE, 0, jnp.exp(jnp.maximum(a, least))) for a in logs)
    return Shifted(root, rules, tags, shifted.offset)


def blocks(rules: jax.Array) -> Rules:
    """Rules [N, S, S] by kinds of children."""
    size = len(rules)
    return Rules(rules[:, :size, :size], rules[:, size:, :size], rules[:, :size, size:], rules[:, size:, size:])


def floor(potentials: Shifted) -> float:
    """λ."""
    frames, size, tags = potentials.sizes
    numbers = jnp.finfo(potentials.tags.dtype)
    return 16 * (frames * size**2 + 2 * size * tags + tags**2) * float(numbers.tiny) / float(numbers.eps)


def right(lost: jax.Array, shifted: Shifted, found: Inside) -> jax.Array:
    """Whether ln Z is right; lost: what the spans may have lost, relative to Z. The sum over the root loses as well."""
    numbers = jnp.finfo(lost.dtype)
    lost += 8 * shifted.root.size * numbers.tiny / found.total
    return (lost <= 16 * numbers.eps) | ~found.possible | ~found.sound


def power(exponent: jax.Array, dtype) -> jax.Array:
    """2^exponent, exactly; 0 if that is below the normal numbers. Exponents are ints up to 127."""
    bits, bias, integer = _format(dtype)
    field = (exponent + bias).astype(integer)
    return jax.lax.bitcast_convert_type(jnp.where(field > 0, field, 0) << bits, dtype)


def dot(subscripts: str, *operands: jax.Array) -> jax.Array:
    """A contraction in full precision."""
    return jnp.einsum(subscripts, *operands, precision=PRECISION)


def varying(tree, like: jax.Array):
    """Arrays that vary over the devices of a jax.shard_map as another does: a loop may not change that."""
    return varying_along(tree, axes_of(like))


def _exponent(x: jax.Array) -> jax.Array:
    """⌊log₂ x⌋ of positive normal numbers, int32."""
    bits, bias, integer = _format(x.dtype)
    return (jax.lax.bitcast_convert_type(x, integer) >> bits).astype(jnp.int32) - bias


def _format(dtype) -> tuple[int, int, type]:
    numbers = jnp.finfo(dtype)
    return numbers.nmant, numbers.maxexp - 1, jnp.int64 if numbers.bits == 64 else jnp.int32


def _range(shifted: Shifted) -> jax.Array:
    """The largest difference between the potentials of nonterminals that can stand in one place, nats."""
    rules = blocks(shifted.rules)
    ends = shifted.root[: len(rules.nn)]
    places = [(ends, 0), (rules.nn, 1), (rules.nn, 2), (rules.pn, 2), (rules.np, 1)]
    return jnp.max(jnp.stack([jnp.max(jnp.max(a, axis=i) - jnp.min(a, axis=i)) for a, i in places]))
