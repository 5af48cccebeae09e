"""Sums over data, a chunk at a time: the memory needed is that of one chunk."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import Model, Params
from elbo.extend import (
    ChunkSize,
    PyTree,
    at_least_single,
    automatic_size,
    axes_of,
    check_chunk_size,
    converted,
    dtype_of,
    explained,
    varying,
)
from elbo.numerics import all_finite, is_feasible

from ._common_subexpressions import share
from ._data import replaced, settle


class Sums(NamedTuple):
    """What a batch adds up to.

    Attributes:
      values: Σ w of what was asked for, over the feasible data; a pytree.
      bound: Σ w L over them, nats.
      weight: Σ w over them.
      dropped: how many data, of a weight other than 0, are not among them; int.
      finite: whether all these numbers are.
    """

    values: PyTree
    bound: jax.Array
    weight: jax.Array
    dropped: jax.Array
    finite: jax.Array


def sum_over_chunks(
    model: Model,
    linear: Callable[..., tuple],
    params: Params,
    shared: PyTree,
    ys: PyTree,
    weights: jax.Array,
    keys: jax.Array | None,
    chunk_size: ChunkSize,
) -> Sums:
    """Σ over the feasible data, a chunk at a time; the others, and those of weight 0, add nothing, not even NaN · 0.

    On the devices of a `jax.shard_map`, each sums its own data.

    Args:
      model: says which data can be used.
      linear: `linear(shared, ys, keys)` -> L of each datum [N], and `pull(weights)` -> the weighted sum, a pytree.
      params: tell the dtype that data are converted to.
      shared: pytree that every chunk reads.
      ys, weights, keys: the data, leading axis N; keys may be None.
      chunk_size: data in a chunk; None for all at once; "auto" for as many as the fast memory holds. N need not be a
        multiple.
    """
    check_chunk_size(chunk_size, "chunk_size")
    size, dtype, axes = weights.shape[0], dtype_of(params), axes_of(shared, ys, weights, keys)
    shared, ys, weights, keys = varying((shared, ys, weights, keys), axes)

    @jax.jit  # traced once for the size of a chunk and for the chunk
    def once(shared, ys, weights, keys):
        bounds, pull = linear(shared, ys, keys)
        feasible = is_feasible(bounds)
        used = jnp.where(feasible, weights, 0)
        return (pull(used), jnp.sum(used * jnp.where(feasible, bounds, 0)), jnp.sum(used)), feasible

    def prepared(ys, weights, keys):
        return converted(ys, dtype), weights, keys

    with explained(ys):
        if chunk_size == "auto":
            chunk_size = automatic_size(lambda shared, *d: once(shared, *prepared(*d)), shared, (ys, weights, keys))
        chunk_size = min(size if chunk_size is None else chunk_size, size)
        few = jax.tree.map(lambda a: a[:chunk_size], (ys, weights, keys))  # for their shapes
        compact, consts, (shapes, _) = share(once, shared, *prepared(*few))

    def part(good, consts, shared, *data):
        ys, weights, keys = prepared(*data)
        ys, keys = replaced(good, (ys, keys))
        sums, feasible = compact(consts, shared, ys, jnp.where(good, weights, 0), keys)
        return sums, good & feasible

    if chunk_size < size:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, at_least_single(a.dtype)), shapes)

    def chunk(carry, start):
        # the last chunk overlaps the one before it, and leaves those data out: no padded copy of ys
        total, kept = carry
        begin = jnp.minimum(start, size - chunk_size)
        g, *d = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, chunk_size), (good, *data))
        fresh = begin + jnp.arange(chunk_size) >= start
        _, sums, left = settle(part, shapes, g & fresh, consts, shared, *d)
        # where no datum of a chunk is feasible its sums may be NaN
        total = jax.tree.map(lambda t, s: t + jnp.where(sums[-1] > 0, s, 0).astype(t.dtype), total, sums)
        return varying((total, kept + jnp.sum(left, dtype=jnp.int32)), axes), None

    valid = jnp.isfinite(weights) & (weights >= 0)
    meant = valid & (weights > 0)
    good = meant & jax.vmap(lambda y: model.usable(converted(y, dtype)))(ys)
    data = (ys, weights, keys)
    if chunk_size == size:
        finite, sums, left = settle(part, shapes, good, consts, shared, *data)
        kept = jnp.sum(left, dtype=jnp.int32)
    else:
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes, jax.ShapeDtypeStruct((), jnp.int32)))
        sums, kept = jax.lax.scan(chunk, varying(nothing, axes), jnp.arange(0, size, chunk_size))[0]
        finite = all_finite(sums)
    values, bound, weight = sums
    return Sums(values, bound, weight, jnp.sum(~valid | meant, dtype=jnp.int32) - kept, finite)
