"""Functions of the rows of data, a chunk at a time: where a fit starts needs no more memory than its steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from elbo.extend import Chunks, PyTree, batch_length

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
    total = batch_length(rows)
    if total <= size:
        return f(jnp.ones(total, bool), *rows)
    chunks = Chunks(batch_length(rows), size)

    def chunk(sums, start):
        counted, part = chunks.part(start, rows)
        return jax.tree.map(jnp.add, sums, f(counted, *part)), None

    counted, first = chunks.part(0, rows)
    shapes = jax.eval_shape(f, counted, *first)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.scan(chunk, zeros, chunks.starts)[0]


def map_rows(f: Callable[..., jax.Array], *rows: PyTree, size: int = _ROWS) -> jax.Array:
    """`f(*rows)`, an array with a leading axis N whose entries depend on their own row, taken chunk by chunk.

    >>> map_rows(lambda x: x**2, jnp.arange(5), size=2).tolist()
    [0, 1, 4, 9, 16]
    """
    if batch_length(rows) <= size:
        return f(*rows)
    chunks = Chunks(batch_length(rows), size)
    return chunks.whole(jax.lax.map(lambda start: f(*chunks.part(start, rows)[1]), chunks.starts))
