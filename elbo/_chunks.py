"""How many data fit into the fast memory at a time."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.extend.core import Jaxpr

from ._devices import axes_of
from ._types import PyTree

ChunkSize = int | Literal["auto"] | None

SMALLEST = 32
_PROBE = 127  # data: a prime, to tell the axes of the data from others
_LIKELY = 8  # no array of f is often more times the largest one of the data
_CPU_BYTES, _ACCELERATOR_BYTES = 3 << 20, 1 << 28


def automatic_size(f: Callable[..., PyTree], shared: PyTree, data: PyTree) -> int:
    """How many data to take in one go: so many that the largest array of f(shared, *data) has 3 MB (a CPU's cache).

    On an accelerator 256 MB, for there it is the memory that counts; at least 32 data. All of them where they may be
    spread over devices: a chunk would be gathered on each. `data` is a tuple of pytrees with a common leading axis N.
    """
    size = jax.tree.leaves(data)[0].shape[0]
    if size <= SMALLEST or (jax.device_count() > 1 and not axes_of(data)):
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
