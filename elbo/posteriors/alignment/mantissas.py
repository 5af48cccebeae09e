"""Alignments with a mantissa and an exponent for each state: no logarithm in the loops, and no state is ever lost.

A weight is m 2^e, m of the order of 1 and e a whole number in a float of its own. A sum is taken at the larger
exponent, so that what it loses is small beside that very sum: the same state, with the same future, however far the
state is behind others. Hence every weight, and Z, has a relative error of a few roundings a frame, whatever the
potentials are. Blank b_i follows label l_i, i = 0..L, and there is no l_0:

    α_t(b_i) = p_t(b_i) (α_{t-1}(b_i) + α_{t-1}(l_i))
    α_t(l_i) = p_t(l_i) (α_{t-1}(l_i) + α_{t-1}(b_{i-1}) + α_{t-1}(l_{i-1}))

where the last term is missing for a repeated label. Arrays are [..., T, L+1], or [..., L+1] for one frame: a batch is
one loop over all of it. The loops overwrite what they read: fresh memory would take as long as the arithmetic.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._types import PyTree
from ...numerics import IMPOSSIBLE, LOG_ZERO
from ..structured.binary import exponent, mantissa, power
from ..structured.log_space import settle
from .path import Sizes, States

# From one call of `tidy` to the next a mantissa grows by 3 √2 a frame at most and shrinks by √2: from 2^0 to 2^34 and
# 2^-8 in 16 frames. So a sum loses at most 2^(34 + 8 - 126) of itself, and the product of two does not overflow.
EVERY = 16

# ln 2 as a sum whose first term is short, so that its product with an exponent is exact
LN2 = {4: (0.693359375, -2.12194440e-4), 8: (0.6931471803691238, 1.9082149292705877e-10)}


class Number(NamedTuple):
    """m 2^e, of the same shape."""

    m: jax.Array
    e: jax.Array


class Weights(NamedTuple):
    """Weights of the blanks b_i and of the labels l_i before them."""

    blanks: Number
    labels: Number


def log_partition(potentials: States, sizes: Sizes) -> jax.Array:
    """ln Z of clean potentials, nats, [...]; the forward pass only. O(T L)."""
    last, taken, _ = forward(_factors(potentials), _skips(sizes))
    return finish(last, taken, sizes)


def smooth(potentials: States, sizes: Sizes) -> tuple[jax.Array, States]:
    """ln Z [...], and the marginals of blanks [..., T, L+1] and labels [..., T, L]; zero in the padding. O(T L)."""
    frames, size = potentials.labels.shape[-2], potentials.labels.shape[-1] + 1
    factors, skips = _factors(potentials), _skips(sizes)
    every = Number(*(jnp.broadcast_to(a, (*a.shape[:-1], size)) for a in factors.blanks))
    last, taken, alpha = forward(Weights(every, factors.labels), skips, history=True)
    log_z = finish(last, taken, sizes)
    blanks, labels = backward(factors, skips, alpha, sizes.labels)
    counts = (jnp.arange(frames) < sizes.frames[..., None]) & ~(log_z <= IMPOSSIBLE)[..., None]
    # whole numbers that are made of bits forget a NaN
    share = jnp.where(jnp.isnan(log_z), jnp.nan, jnp.ones_like(log_z))[..., None, None]
    each = (jnp.where(counts[..., None], jnp.minimum(a * share, 1), 0) for a in (blanks, labels[..., 1:]))
    return log_z, States(*each)


def forward(factors: Weights, skips: jax.Array, history: bool = False) -> tuple[Weights, jax.Array, Weights]:
    """α after the last frame, and the exponent taken out of it [..., 1]; where wanted, α_t in place of the factors.

    Each α_t is up to a power of 2 that is the same for `EVERY` frames, a block.
    """
    count, start = factors.labels.e.shape[-2], _impossible(factors)

    def step(t, carry):
        (blanks, labels), frames = carry
        now, both = _at(frames, t), add(blanks, labels)
        onward = shift(select(skips, both, blanks))
        weights = Weights(times(both, now.blanks), times(add(labels, onward), now.labels))
        return weights, _put(frames, weights, t) if history else frames

    def block(k, carry):
        weights, taken, frames = carry
        weights, taken = tidy(weights, taken)
        begin, size = _block(k, count)
        weights, frames = jax.lax.fori_loop(0, size, lambda i, c: step(begin + i, c), (weights, frames))
        return weights, taken, frames

    weights = Weights(_one_at(start, 0), start)
    carry = weights, 0 * start.m[..., :1], factors
    weights, taken, alpha = jax.lax.fori_loop(0, -(-count // EVERY), block, carry)
    return *tidy(weights, taken), alpha


def backward(factors: Weights, skips: jax.Array, alpha: Weights, last: jax.Array) -> list[jax.Array]:
    """Marginals α_t β_t / Z of blanks and labels, in place of α's mantissas; last: index of the last label, [...]."""
    count, start = factors.labels.e.shape[-2], _impossible(factors)
    blocks, exponents = -(-count // EVERY), [a.e for a in alpha]

    def joint(weights, mantissas, t):
        """α_t β_t"""
        return [times(w, Number(m, e)) for w, m, e in zip(weights, _at(mantissas, t), _at(exponents, t), strict=True)]

    def step(i, carry):
        weights, mantissas, end, share = carry
        t = end - i
        # at most 1, and mantissas have bounds: so no exponent is far above that of Z
        marginals = [p.m * share.m * power(p.e - share.e) for p in joint(weights, mantissas, t)]
        mantissas = _put(mantissas, marginals, t)
        blanks, labels = map(times, weights, _at(factors, t))
        both = add(blanks, shift(labels, back=True))
        return Weights(both, add(labels, select(skips, both, blanks))), mantissas, end, share

    def block(i, carry):
        weights, mantissas = carry
        begin, size = _block(blocks - 1 - i, count)
        end = begin + size
        weights, _ = tidy(weights, 0 * start.m[..., :1])
        # 1 / Z, and the exponent of Z, in the units of this block
        products = joint(weights, mantissas, end - 1)
        top = jnp.max(jnp.maximum(*(p.e for p in products)), -1, keepdims=True)
        blanks, labels = (jnp.sum(p.m * power(p.e - top), -1, keepdims=True) for p in products)
        share = Number(1 / (blanks + labels), top)
        return jax.lax.fori_loop(0, size, step, (weights, mantissas, end - 1, share))[:2]

    end = _one_at(start, last[..., None])
    return jax.lax.fori_loop(0, blocks, block, (Weights(end, end), [a.m for a in alpha]))[1]


def _block(k: jax.Array, count: int) -> tuple[jax.Array, jax.Array | int]:
    """Where block k begins, and how many frames it has: a number that is known where all blocks are whole."""
    return k * EVERY, EVERY if count % EVERY == 0 else jnp.minimum(EVERY, count - k * EVERY)


def whole_blocks(potentials: States) -> States:
    """Clean potentials with as much more padding as makes all blocks whole."""
    rest = -potentials.labels.shape[-2] % EVERY
    edges = [(0, 0)] * (potentials.labels.ndim - 2) + [(0, rest), (0, 0)]
    return States(*(jnp.pad(a, edges, constant_values=fill) for a, fill in zip(potentials, (0, LOG_ZERO), strict=True)))


def finish(last: Weights, taken: jax.Array, sizes: Sizes) -> jax.Array:
    """ln Z [...] from tidy weights after the last frame: what is in the last label, or in the blank after it."""
    end = add(last.blanks, last.labels)
    here = jnp.arange(end.e.shape[-1]) == sizes.labels[..., None]
    m, e = (jnp.sum(jnp.where(here, a, 0), -1) for a in end)
    high, low = LN2[m.dtype.itemsize]
    e = e + taken[..., 0]
    return settle(e * high + (e * low + jnp.log(m)))


def tidy(weights: Weights, taken: jax.Array) -> tuple[Weights, jax.Array]:
    """Mantissas in [1, 2); the largest exponent is taken out, so that others stay exact, unless nothing is possible."""
    each = [_normal(w) for w in weights]
    top = jnp.max(jnp.maximum(*(w.e for w in each)), -1, keepdims=True)
    top = jnp.where(top <= IMPOSSIBLE, jnp.zeros((), top.dtype), top)
    return Weights(*(Number(w.m, jnp.maximum(w.e - top, LOG_ZERO)) for w in each)), taken + top


def add(a: Number, b: Number) -> Number:
    """a + b, at the larger exponent."""
    first = a.e >= b.e
    m = jnp.where(first, a.m, b.m) + jnp.where(first, b.m, a.m) * power(-jnp.abs(a.e - b.e))
    return Number(m, jnp.maximum(a.e, b.e))


def times(a: Number, b: Number) -> Number:
    """a b."""
    return Number(a.m * b.m, a.e + b.e)


def select(which: jax.Array, a: Number, b: Number) -> Number:
    """a where it is true, else b."""
    return Number(jnp.where(which, a.m, b.m), jnp.where(which, a.e, b.e))


def shift(a: Number, back: bool = False) -> Number:
    """Entry i − 1 at i, or entry i + 1; what is moved in is impossible."""
    edges = [(0, 0, 0)] * (a.m.ndim - 1) + [(-1, 1, 0) if back else (1, -1, 0)]
    return Number(
        *(jax.lax.pad(x, jnp.asarray(fill, x.dtype), edges) for x, fill in zip(a, (1, LOG_ZERO), strict=True))
    )


def _normal(a: Number) -> Number:
    """The same number with its mantissa in [1, 2)."""
    return Number(mantissa(a.m), a.e + exponent(a.m).astype(a.e.dtype))


def _factors(potentials: States) -> Weights:
    """exp of the potentials."""
    edges = [(0, 0)] * (potentials.labels.ndim - 1) + [(1, 0)]
    return Weights(_exp(potentials.blanks), _exp(jnp.pad(potentials.labels, edges, constant_values=LOG_ZERO)))


def _exp(x: jax.Array) -> Number:
    high, low = LN2[x.dtype.itemsize]
    e = jnp.round(x / (high + low))
    return Number(jnp.exp(jnp.clip((x - e * high) - e * low, -0.5, 0.5)), e)


def _impossible(factors: Weights) -> Number:
    """Weights of one frame [..., L+1], all impossible."""
    nothing = 0 * factors.labels.e[..., 0, :]
    return Number(nothing + 1, nothing + LOG_ZERO)


def _one_at(impossible: Number, index: jax.Array | int) -> Number:
    """The same with 1 at that index."""
    here = jnp.arange(impossible.e.shape[-1]) == index
    return Number(impossible.m, jnp.where(here, 0, impossible.e))


def _skips(sizes: Sizes) -> jax.Array:
    """Whether one may go from l_i to l_{i+1} without a blank, [..., L+1]; the ends do not matter."""
    edges = [(0, 0)] * (sizes.repeats.ndim - 1) + [(1, 1)]
    return ~jnp.pad(sizes.repeats, edges)[..., 1:]


def _at(weights: PyTree, t: jax.Array) -> PyTree:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, -2, keepdims=False), weights)


def _put(weights: PyTree, frame: PyTree, t: jax.Array) -> PyTree:
    return jax.tree.map(lambda a, x: jax.lax.dynamic_update_index_in_dim(a, x, t, a.ndim - 2), weights, frame)
