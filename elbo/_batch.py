"""A function of one datum over the leading axis of a batch, a chunk at a time."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ._chunks import ChunkSize, automatic_size, check_chunk_size
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
        sharding = jax.typeof(jax.tree.leaves(ys)[0]).sharding
        axis = next(iter(sharding.spec), None)
        run = partial(_evaluate, self.one, self.batch_size)
        if axis is None:
            return run(params, ys, key)
        # data on a mesh with explicit axes (what jax.make_mesh makes): let the compiler place what is in between
        data = NamedSharding(sharding.mesh, PartitionSpec(axis))
        return jax.sharding.auto_axes(run, out_sharding=data)(params, ys, key)


def _evaluate(one, chunk, params, ys, key):
    every = jax.jit(jax.vmap(one, (None, 0, 0)))  # traced once for the size of a chunk and for the chunk
    size = batch_length(ys)
    data = ys, None if key is None else jax.random.split(key, size)
    with explained(ys):
        if chunk == "auto":
            chunk = automatic_size(every, params, data)
        return _in_chunks(every, params, data, size if chunk is None else min(chunk, size))


def _in_chunks(every: Callable, params: Params, data: PyTree, chunk: int) -> PyTree:
    """`every(params, *data)`, a chunk of the leading axis at a time; its derivative has the memory of a chunk, too."""
    size = batch_length(data)
    if chunk == size:
        return every(params, *data)
    last = size - chunk  # the last chunk overlaps the one before it: one program for all

    def part(begin):
        return every(params, *jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, chunk), data))

    def joined(a):
        return jnp.concatenate([a[:-1].reshape(-1, *a.shape[2:]), a[-1, -(size % chunk or chunk) :]])

    part = jax.checkpoint(part, prevent_cse=False)
    return jax.tree.map(joined, jax.lax.map(part, jnp.minimum(jnp.arange(0, size, chunk), last)))


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
