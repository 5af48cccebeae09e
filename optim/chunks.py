"""Sums over data, a chunk at a time: the memory needed is that of one chunk."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from elbo import Model, Params

from .sharing import share

Tree = Any


def sum_over_chunks(
    f: Callable[..., Tree], shared: Tree, ys: Tree, weights: jax.Array, keys: jax.Array | None, chunk_size: int | None
) -> Tree:
    """Σ over chunks of `f(shared, ys, weights, keys)`, a pytree of sums over data weighted by weights.

    Args:
      f: additive in the data: a datum of weight 0 must add nothing.
      shared: pytree that every chunk reads.
      ys, weights, keys: the data, leading axis N; keys may be None.
      chunk_size: data in a chunk; None for all at once. N need not be a multiple.
    """
    size = weights.shape[0]
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}, expected a positive number of data, or None for all at once")
    f = share(f)
    if chunk_size is None or chunk_size >= size:
        return f(shared, ys, weights, keys)

    def chunk(total, start):
        # the last chunk overlaps the one before it, and counts those data with weight 0: no padded copy of ys
        begin = jnp.minimum(start, size - chunk_size)
        y, w, k = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, chunk_size), (ys, weights, keys))
        fresh = begin + jnp.arange(chunk_size) >= start
        return jax.tree.map(jnp.add, total, f(shared, y, jnp.where(fresh, w, 0), k)), None

    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(f, shared, ys, weights, keys))
    return jax.lax.scan(chunk, zero, jnp.arange(0, size, chunk_size))[0]


def screen(model: Model, ys: Tree, weights: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
    """Data that cannot be used, or have weight 0, replaced by one that can, with weight 0; and how many could not.

    NaN times weight 0 is NaN: junk must not be looked at, not even with weight 0.
    """
    usable = jax.vmap(model.usable)(ys)
    good = usable & (weights > 0)
    first = jnp.argmax(good)

    def replace(leaf):
        stand_in = leaf[first]
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            stand_in = jnp.where(jnp.isfinite(stand_in), stand_in, 0)
        return jnp.where(good.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, stand_in)

    return jax.tree.map(replace, ys), jnp.where(good, weights, 0), jnp.sum(~usable & (weights > 0), dtype=jnp.int32)


def check_weights(weights: jax.Array | None, size: int, params: Params) -> jax.Array:
    """Weights [N] in the parameters' floating-point type, 1 by default; raises on another shape."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    dtype = jnp.result_type(*dtypes) if dtypes else float
    if weights is None:
        return jnp.ones(size, dtype)
    if jnp.shape(weights) != (size,):
        raise ValueError(f"weights: got shape {list(jnp.shape(weights))}, expected [{size}], one for each datum of ys")
    return jnp.asarray(weights, dtype)


def split(key: jax.Array | None, size: int) -> jax.Array | None:
    """One key per datum, or None."""
    return None if key is None else jax.random.split(key, size)
