"""Sums over data, a chunk at a time: the memory needed is that of one chunk."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from elbo import Model, Params, widen

from .sharing import share

Tree = Any
ChunkSize = int | Literal["auto"] | None

_PROBE = 127  # data: a prime, to tell the axes of the data from others
_SMALLEST = 32
_CPU_BYTES, _ACCELERATOR_BYTES = 3 << 20, 1 << 28


def sum_over_chunks(
    f: Callable[..., Tree], shared: Tree, ys: Tree, weights: jax.Array, keys: jax.Array | None, chunk_size: ChunkSize
) -> Tree:
    """Σ over chunks of `f(shared, ys, weights, keys)`, a pytree of sums over data weighted by weights.

    Args:
      f: additive in the data: a datum of weight 0 must add nothing.
      shared: pytree that every chunk reads.
      ys, weights, keys: the data, leading axis N; keys may be None.
      chunk_size: data in a chunk; None for all at once; "auto" for as many as the fast memory holds. N need not be a
        multiple.
    """
    size = weights.shape[0]
    if chunk_size is not None and chunk_size != "auto" and chunk_size < 1:
        raise ValueError(
            f'chunk_size: got {chunk_size}, expected a positive number of data, "auto", or None for all at once'
        )
    f = share(f)
    if chunk_size == "auto":
        chunk_size = automatic_size(f, shared, ys, weights, keys)
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


def automatic_size(f: Callable[..., Tree], shared: Tree, ys: Tree, weights: jax.Array, keys: jax.Array | None) -> int:
    """How many data to look at in one go: so many that the largest array has 3 MB (a CPU's cache), at least 32.

    On an accelerator 256 MB, for there it is the memory that counts. The arguments are those of `sum_over_chunks`.
    """
    if weights.shape[0] <= _SMALLEST:
        return weights.shape[0]
    few = jax.tree.map(lambda a: jax.ShapeDtypeStruct((_PROBE, *a.shape[1:]), a.dtype), (ys, weights, keys))
    largest = _largest(jax.make_jaxpr(f)(shared, *few).jaxpr) / _PROBE
    budget = _CPU_BYTES if jax.default_backend() == "cpu" else _ACCELERATOR_BYTES
    size = min(weights.shape[0], max(_SMALLEST, int(budget / largest) // _SMALLEST * _SMALLEST))
    count = -(-weights.shape[0] // size)
    # where much would be looked at twice, chunks of one size, which need not be a multiple of anything
    return size if count * size <= 1.1 * weights.shape[0] else -(-weights.shape[0] // count)


def _largest(jaxpr: Jaxpr) -> int:
    """Bytes of the largest array with an axis of the probe's length."""
    arrays: list[Any] = [v.aval for eqn in jaxpr.eqns for v in eqn.outvars]
    sizes = [a.size * a.dtype.itemsize for a in arrays if _PROBE in getattr(a, "shape", ())]
    params = [
        p for eqn in jaxpr.eqns for value in eqn.params.values() for p in (value if type(value) is tuple else (value,))
    ]
    inner = [_largest(b) for b in (getattr(p, "jaxpr", p) for p in params) if isinstance(b, Jaxpr)]
    return max([1, *sizes, *inner])


def screen(model: Model, ys: Tree, weights: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
    """Data that cannot be used, or have weight 0, replaced by one that can, with weight 0; and how many could not.

    NaN times weight 0 is NaN: junk must not be looked at, not even with weight 0.
    """
    ys = widen(ys)
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
