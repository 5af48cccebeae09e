"""A function of one datum over the leading axis of a batch, a chunk at a time."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from ._chunks import Chunks, ChunkSize, automatic_size, check_chunk_size, over_devices
from ._devices import anywhere
from ._model import Params
from ._types import PyTree
from ._values import Compiled, value
from .posteriors import StructureError


def batched(one: Callable, batch_size: ChunkSize) -> Callable:
    """`one(params, y, key)` over the leading axis of ys, jit-compiled; equal `one`s share their programs."""
    check_chunk_size(batch_size, "batch_size")
    return Compiled(_Batched(one, batch_size))


@value
class _Batched:
    one: Callable
    batch_size: ChunkSize

    def __call__(self, params: Params, ys: PyTree, key: jax.Array | None = None) -> PyTree:
        if not isinstance(params, Params):
            raise TypeError(f"params: got {type(params).__name__}, expected elbo.Params(theta, psi)")
        batch_length(ys)
        return anywhere(partial(_evaluate, self.one, self.batch_size), like_data=True)(params, ys, key)


def _evaluate(one, chunk, params, ys, key):
    every = jax.jit(jax.vmap(one, (None, 0, 0)))  # traced once for the size of a chunk and for the chunk
    keys = None if key is None else jax.random.split(key, batch_length(ys))

    def row(*data):
        size = batch_length(data)
        each = automatic_size(every, params, data) if chunk == "auto" else size if chunk is None else min(chunk, size)
        return _in_chunks(every, params, data, each)

    with explained(ys):
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), over_devices(row, ys, keys))


def _in_chunks(every: Callable, params: Params, data: PyTree, each: int) -> PyTree:
    """`every(params, *data)`, a chunk of the leading axis at a time; its derivative has the memory of a chunk, too."""
    chunks = Chunks(batch_length(data), each)
    if each == chunks.size:
        return every(params, *data)
    part = jax.checkpoint(lambda start: every(params, *chunks.part(start, data)[1]), prevent_cse=False)
    return chunks.whole(jax.lax.map(part, chunks.starts))


@contextlib.contextmanager
def explained(ys: PyTree) -> Iterator[None]:
    """Errors inside, raised while tracing (often by a family or a network given another shape), say how ys was read."""
    try:
        yield
    except StructureError:
        raise
    except Exception as error:
        shapes = [list(jnp.shape(leaf)[1:]) for leaf in jax.tree.leaves(ys)]
        error.add_note(
            f"ys: read as {batch_length(ys)} data [N, ...] with leaves of shapes {shapes}; one datum alone is ys[None]"
        )
        raise


def batch_length(ys: PyTree) -> int:
    """The common length N of the leading axes of ys; raises where they differ, are missing or are zero."""
    if isinstance(ys, list):
        raise TypeError(
            f"ys: got a list of {len(ys)}, expected arrays with a leading axis N, one datum an entry; stack the data: "
            "jnp.stack(ys), or sequences of several lengths in one elbo.Padded(values [N, T, ...], length [N])"
        )
    for leaf in jax.tree.leaves(ys):
        if not (hasattr(leaf, "shape") or isinstance(leaf, (bool, int, float, complex))):
            raise TypeError(
                f"ys: got a {type(leaf).__name__}, expected arrays with a leading axis N, one datum an entry; make one "
                "array of it: jnp.stack(list(ys))"
            )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(ys)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"ys: got leaves of shapes {[list(s) for s in shapes]}, expected one common leading axis N >= 1, one datum "
            "an entry"
        )
    return lengths.pop()
