"""Data a chunk at a time: how many fit into the fast memory, and how they are taken where devices share them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from ._devices import axes_of
from ._types import PyTree

ChunkSize = int | Literal["auto"] | None

SMALLEST = 32
_PROBE = 127  # data: a prime, to tell the axes of the data from others
_LIKELY = 8  # no array of f is often more times the largest one of the data
_CPU_BYTES, _ACCELERATOR_BYTES = 3 << 20, 1 << 28


@dataclass(frozen=True)
class Chunks:
    """How data [N, ...] are cut: chunks of `each`, the last of which overlaps the one before it: no padded copy."""

    size: int
    each: int

    @property
    def starts(self) -> jax.Array:
        """Where chunks begin; the last one begins earlier."""
        return jnp.arange(0, self.size, self.each)

    def part(self, start: jax.Array | int, data: PyTree) -> tuple[jax.Array, PyTree]:
        """Whether each datum of the chunk is new, bool [each], and the chunk."""
        begin = jnp.minimum(start, self.size - self.each)
        cut = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, self.each), data)
        return begin + jnp.arange(self.each) >= start, cut

    def whole(self, parts: PyTree) -> PyTree:
        """[N, ...] of what was computed of the chunks, [chunks, each, ...]."""
        rest = self.size % self.each or self.each
        return jax.tree.map(lambda a: jnp.concatenate([a[:-1].reshape(-1, *a.shape[2:]), a[-1, -rest:]]), parts)


def over_devices(f: Callable[..., PyTree], *data: PyTree) -> PyTree:
    """f(*data) [1, ...]; or [rows, ...], of each of as many rows of data as there are devices that may hold them.

    Each device then works on what it holds: a loop over chunks of the data [N, ...] itself would bring every chunk to
    all of them. `data` are pytrees with a common leading axis N.
    """
    size, devices = jax.tree.leaves(data)[0].shape[0], jax.device_count()
    if devices == 1 or size % devices or axes_of(data):  # in a shard_map each has its own
        return jax.tree.map(lambda a: a[None], f(*data))
    return jax.vmap(f)(*jax.tree.map(lambda a: a.reshape(devices, size // devices, *a.shape[1:]), data))


def automatic_size(f: Callable[..., PyTree], shared: PyTree, data: PyTree) -> int:
    """How many data to take in one go: so many that the largest array of f(shared, *data) has 3 MB (a CPU's cache).

    On an accelerator 256 MB, for there it is the memory that counts; at least 32 data. `data` is a tuple of pytrees
    with a common leading axis N.
    """
    size = jax.tree.leaves(data)[0].shape[0]
    if size <= SMALLEST:
        return size
    budget = _CPU_BYTES if jax.default_backend() == "cpu" else _ACCELERATOR_BYTES

    def largest(count):
        part = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), data)
        return _largest(jax.make_jaxpr(f)(shared, *part).jaxpr, count)

    # where all are likely to fit they are traced as they are: f that is jitted then has its trace already
    given = max(a.size * a.dtype.itemsize for a in jax.tree.leaves(data))
    if _LIKELY * given <= budget and largest(size) <= budget:
        return size
    fits = min(size, max(SMALLEST, int(budget * _PROBE / largest(_PROBE)) // SMALLEST * SMALLEST))
    count = -(-size // fits)
    # where many data would be in two chunks, chunks of one size, which need not be a multiple of anything
    return fits if count * fits <= 1.1 * size else -(-size // count)


def check_chunk_size(chunk_size: ChunkSize, name: str) -> None:
    """Raises unless the argument of this name says how many data to take in one go."""
    if chunk_size is None or chunk_size == "auto":
        return
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int | np.integer) or chunk_size < 1:
        raise ValueError(
            f'{name}: got {chunk_size!r}, expected a positive number of data, "auto", or None for all at once'
        )


def _largest(jaxpr: Jaxpr, length: int) -> int:
    """Bytes of the largest array with an axis of this length."""
    arrays: list[Any] = [v.aval for eqn in jaxpr.eqns for v in eqn.outvars]
    sizes = [a.size * a.dtype.itemsize for a in arrays if length in getattr(a, "shape", ())]
    params = [
        p for eqn in jaxpr.eqns for value in eqn.params.values() for p in (value if type(value) is tuple else (value,))
    ]
    inner = [_largest(b, length) for b in (getattr(p, "jaxpr", p) for p in params) if isinstance(b, Jaxpr)]
    return max([1, *sizes, *inner])
