"""Sums over data, a chunk at a time: the memory needed is that of one chunk."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import Model, Params
from elbo.extend import (
    Chunks,
    ChunkSize,
    PyTree,
    at_least_single,
    automatic_size,
    axes_of,
    check_chunk_size,
    converted,
    dtype_of,
    explained,
    over_devices,
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
    axes = axes_of(shared, ys, weights, keys)
    shared, *data = varying((shared, ys, weights, keys), axes)
    row = partial(_sum_of_row, model, linear, dtype_of(params), shared, chunk_size, axes)
    with explained(ys):
        return _total(over_devices(row, *data))


def _total(rows: Sums) -> Sums:
    """The sum of the rows, [rows]; where no datum of a row is feasible its own sums may be NaN."""
    if len(rows.weight) == 1:
        return jax.tree.map(lambda a: a[0], rows)
    some = rows.weight > 0

    def total(a):
        return jnp.sum(jnp.where(some.reshape(-1, *(1,) * (a.ndim - 1)), a, 0), 0, a.dtype)

    finite = jnp.all(rows.finite | ~some) & (jnp.any(some) | jnp.all(rows.finite))
    values, bound, weight = jax.tree.map(total, (rows.values, rows.bound, rows.weight))
    return Sums(values, bound, weight, jnp.sum(rows.dropped, dtype=jnp.int32), finite)


def _sum_of_row(model, linear, dtype, shared, chunk_size, axes, ys, weights, keys) -> Sums:
    """What the data of one device add up to; see `sum_over_chunks`."""
    size = weights.shape[0]

    @jax.jit  # traced once for the size of a chunk and for the chunk
    def once(shared, ys, weights, keys):
        bounds, pull = linear(shared, ys, keys)
        feasible = is_feasible(bounds)
        used = jnp.where(feasible, weights, 0)
        return (pull(used), jnp.sum(used * jnp.where(feasible, bounds, 0)), jnp.sum(used)), feasible

    def prepared(ys, weights, keys):
        return converted(ys, dtype), weights, keys

    if chunk_size == "auto":
        chunk_size = automatic_size(lambda shared, *d: once(shared, *prepared(*d)), shared, (ys, weights, keys))
    chunks = Chunks(size, min(size if chunk_size is None else chunk_size, size))
    few = jax.tree.map(lambda a: a[: chunks.each], (ys, weights, keys))  # for their shapes
    compact, consts, (shapes, _) = share(once, shared, *prepared(*few))

    def part(good, consts, shared, *data):
        ys, weights, keys = prepared(*data)
        ys, keys = replaced(good, (ys, keys))
        sums, feasible = compact(consts, shared, ys, jnp.where(good, weights, 0), keys)
        return sums, good & feasible

    if chunks.each < size:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, at_least_single(a.dtype)), shapes)

    def chunk(carry, start):
        total, kept = carry
        fresh, (g, *d) = chunks.part(start, (good, *data))
        _, sums, left = settle(part, shapes, g & fresh, consts, shared, *d)
        # where no datum of a chunk is feasible its sums may be NaN
        total = jax.tree.map(lambda t, s: t + jnp.where(sums[-1] > 0, s, 0).astype(t.dtype), total, sums)
        return varying((total, kept + jnp.sum(left, dtype=jnp.int32)), axes), None

    valid = jnp.isfinite(weights) & (weights >= 0)
    meant = valid & (weights > 0)
    good = meant & jax.vmap(lambda y: model.usable(converted(y, dtype)))(ys)
    data = (ys, weights, keys)
    if chunks.each == size:
        finite, sums, left = settle(part, shapes, good, consts, shared, *data)
        kept = jnp.sum(left, dtype=jnp.int32)
    else:
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes, jax.ShapeDtypeStruct((), jnp.int32)))
        sums, kept = jax.lax.scan(chunk, varying(nothing, axes), chunks.starts)[0]
        finite = all_finite(sums)
    values, bound, weight = sums
    return Sums(values, bound, weight, jnp.sum(~valid | meant, dtype=jnp.int32) - kept, finite)
