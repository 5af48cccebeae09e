"""Functions of the rows of data, a chunk at a time: where a fit starts needs no more memory than its steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from elbo.extend import PyTree

_ROWS = 4096


def sum_rows(f: Callable[..., PyTree], *rows: PyTree, size: int = _ROWS) -> PyTree:
    """Σ over chunks of `f(counted, *chunk)`, a pytree of sums over rows.

    Args:
      f: what it sums, it multiplies by counted, bool [n]: False for the rows that the last chunk shares with another.
      rows: pytrees with a leading axis N.
      size: rows in a chunk.

    >>> sum_rows(lambda counted, x: jnp.sum(x * counted), jnp.arange(10.0), size=4).tolist()
    45.0
    """
    total = _length(rows)
    if total <= size:
        return f(jnp.ones(total, bool), *rows)

    def chunk(sums, start):
        begin, part = _part(rows, start, size)
        return jax.tree.map(jnp.add, sums, f(begin + jnp.arange(size) >= start, *part)), None

    shapes = jax.eval_shape(f, jnp.ones(size, bool), *_part(rows, 0, size)[1])
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.scan(chunk, zeros, jnp.arange(0, total, size))[0]


def map_rows(f: Callable[..., jax.Array], *rows: PyTree, size: int = _ROWS) -> jax.Array:
    """`f(*rows)`, an array with a leading axis N whose entries depend on their own row, taken chunk by chunk.

    >>> map_rows(lambda x: x**2, jnp.arange(5), size=2).tolist()
    [0, 1, 4, 9, 16]
    """
    total = _length(rows)
    if total <= size:
        return f(*rows)

    def chunk(out, start):
        begin, part = _part(rows, start, size)
        return jax.lax.dynamic_update_slice_in_dim(out, f(*part), begin, 0), None

    one = jax.eval_shape(f, *_part(rows, 0, size)[1])
    zeros = jnp.zeros((total, *one.shape[1:]), one.dtype)
    return jax.lax.scan(chunk, zeros, jnp.arange(0, total, size))[0]


def _length(rows: PyTree) -> int:
    return jax.tree.leaves(rows)[0].shape[0]


def _part(rows: PyTree, start: jax.Array | int, size: int) -> tuple[jax.Array, PyTree]:
    begin = jnp.minimum(start, _length(rows) - size)  # the last chunk overlaps the one before
    return begin, jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, size), rows)
