"""The outside pass in the probability domain, and the marginals: the inside pass differentiated by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from . import charts
from .charts import Chart, add, cut, update
from .parse import Parse, Shifted
from .scaled import (
    Inside,
    Rules,
    as_factors,
    blocks,
    children,
    dot,
    floor,
    inside,
    power,
    right,
    varying,
)


class _Outside(NamedTuple):
    """∂ ln Z in what the inside pass made, as it is summed up.

    Attributes:
      chart: in the weights of the spans: as left children by start, as right children by end. Both are summed.
      spans: marginals, [T, T+1, N] by start and width.
      pairs: in the rules between nonterminals, without the rules as factors, [N, N, N].
      before, after: in those of `Inside`.
      slopes: the sum of all o(A), see `scaled`.
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
    start = _Outside(chart, 0 * chart.by_start, pairs, *zeros)

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


def _enter(found: Inside, least: float, width, out: _Outside, count: int) -> tuple[jax.Array, _Outside]:
    """o(A) of the spans of one width [count, N], whose parents are all done; notes their marginals."""
    norm = power(-cut(found.norms, (0, width), (count, 1)), out.spans.dtype)
    outer = cut(out.chart.by_start, (0, width), (count, 1)) + cut(
        out.chart.by_end, (width, out.chart.frames - width), (count, 1)
    )
    inner = cut(found.values.by_start, (0, width), (count, 1))
    # numbers at the floor are there for the bound only
    marginals = jnp.minimum(outer * jnp.where(inner > least * norm[..., None], inner, 0), 1)
    weights = outer[:, 0] * norm
    return weights, out._replace(spans=update(out.spans, marginals, (0, width)), slopes=out.slopes + jnp.sum(weights))


def _down(found: Inside, rules: Rules, least: float, width, out: _Outside, count: int, splits: int) -> _Outside:
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
