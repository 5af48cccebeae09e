"""Data that come in batches, and need not fit into memory: what a stream may be, and how rules read it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo.extend import PyTree, at_least_single, batch_length, dtype_of

from ._arguments import require_count


class Batch(NamedTuple):
    """A batch whose data have weights: what a stream may yield in place of data alone.

    Attributes:
      ys: pytree of data with a leading axis B.
      weights: [B], as in `Update`.
    """

    ys: PyTree
    weights: Any


@dataclass(frozen=True)
class Batches:
    """Arrays cut into batches, each time anew; they may be larger than memory (`numpy.memmap`).

    Args:
      ys: pytree of NumPy arrays with a common leading axis N.
      size: data in a batch; the last one may be short.
      weights: [N], 1 by default.

    >>> [len(batch.ys) for batch in Batches(np.arange(5.0), 2)]
    [2, 2, 1]
    """

    ys: PyTree
    size: int
    weights: Any = None

    def __post_init__(self):
        require_count("size", self.size)
        if self.weights is not None and np.shape(self.weights) != (len(self),):
            raise ValueError(f"weights: got shape {list(np.shape(self.weights))}, expected [{len(self)}]")

    def __len__(self) -> int:
        return batch_length(self.ys)

    def __iter__(self) -> Iterator[Batch]:
        for begin in range(0, len(self), self.size):
            yield self.rows(slice(begin, begin + self.size))

    def rows(self, index: Any) -> Batch:
        """The data of these rows."""
        ys = jax.tree.map(lambda a: np.asarray(a[index]), self.ys)
        count = batch_length(ys)
        return Batch(ys, np.ones(count) if self.weights is None else np.asarray(self.weights[index]))


class StreamError(RuntimeError):
    """A stream failed; says where. `fit` puts what it had until then into `result`.

    Attributes:
      result: the `Result` of the steps before, or None.
    """

    result: Any = None


class Drawn(NamedTuple):
    """Minibatches to come.

    Attributes:
      length: how many.
      parts: ys, weights and the share that they are of all data; once through.
    """

    length: int
    parts: Iterator[tuple[PyTree, jax.Array, float]]


def is_stream(ys: Any) -> bool:
    """Whether ys is no data in memory but something that gives batches."""
    if isinstance(ys, Batches) or callable(ys):
        return True
    if hasattr(ys, "shape"):
        return False
    leaves = jax.tree.leaves(ys)
    alone = len(leaves) == 1 and leaves[0] is ys
    return alone and isinstance(ys, Iterable) and not isinstance(ys, str | bytes)


class Source:
    """A stream as rules read it: batches of one size on the device, padded with weight 0.

    What it learns in its first pass (the size of a batch, their number, the shapes) later passes are held against.
    """

    def __init__(self, stream: Any, params: Any):
        if isinstance(stream, Iterator):
            raise TypeError(
                f"ys: got a {type(stream).__name__}, which can be read once, expected a stream that every pass reads "
                "anew: a function that returns an iterator, a loader, or optim.Batches(arrays, size); or one array of "
                "it all, jnp.stack(list(ys))"
            )
        self.stream = stream
        self.dtype = at_least_single(dtype_of(params))
        self.first: Any = None  # the first batch's shapes
        self.totals: tuple[int, int, float] | None = None  # batches, data and their weight
        self.passes = self.seen = 0

    def parts(self) -> Iterator[tuple[PyTree, jax.Array, float]]:
        """One pass: ys [B, ...], weights [B], their sum. A batch is fetched while the device is busy with the last."""
        count = data = 0
        weight = 0.0
        for batch in self._read():
            ys, weights = self._fitted(batch, count)
            own = float(np.sum(batch.weights))
            count, data, weight = count + 1, data + batch_length(batch.ys), weight + own
            yield ys, weights, own
        if not count:
            raise StreamError(
                f"ys: pass {self.passes} over the stream gave no batch; a function must return a new iterator each time"
            )
        totals = count, data, weight
        if self.totals is not None and totals[:2] != self.totals[:2]:
            raise StreamError(
                f"ys: pass {self.passes} gave {data} data in {count} batches, expected {self.totals[1]} in "
                f"{self.totals[0]} as in the first"
            )
        self.totals = totals

    def weight(self) -> float:
        """Σ w of all data; reads a stream without rows once where no pass was made yet."""
        if isinstance(self.stream, Batches):
            return float(len(self.stream) if self.stream.weights is None else np.sum(self.stream.weights))
        if self.totals is None:
            for _ in self.parts():
                pass
        assert self.totals is not None
        return self.totals[2]

    def minibatches(self, key: jax.Array, size: int) -> Drawn:
        """One pass in batches of `size`: in an order drawn from the key where the stream has rows, else in its own."""
        if isinstance(self.stream, Batches):
            rows, count = self.stream, len(self.stream)
            order = np.asarray(jax.random.permutation(key, count))
            starts = range(0, count, size)
            self.passes += 1
            self.totals = len(starts), count, self.weight()

            def drawn():
                for i, begin in enumerate(starts):
                    batch = rows.rows(order[begin : begin + size])
                    yield *self._fitted(batch, i, size), batch_length(batch.ys) / count

            return Drawn(len(starts), drawn())
        total = self.weight()
        assert self.totals is not None
        if size != self._rows():
            raise ValueError(
                f"size: got minibatches of {size}, but the stream gives batches of {self._rows()}; take that size, or "
                "give optim.Batches(arrays, size), whose rows can be drawn"
            )
        return Drawn(self.totals[0], ((ys, w, own / total) for ys, w, own in self.parts()))

    def _read(self) -> Iterator[Batch]:
        """The batches of one pass on the host; errors of the loader say where they are from."""
        self.passes += 1
        self.seen = 0
        try:
            batches = iter(self.stream() if callable(self.stream) else self.stream)
            if batches is self.stream:
                raise TypeError("the stream is its own iterator, which can be read once")
            for batch in batches:
                yield batch if isinstance(batch, Batch) else _weighted(batch)
                self.seen += 1
        except StreamError:
            raise
        except Exception as error:
            raise StreamError(
                f"ys: batch {self.seen} of pass {self.passes} failed: {type(error).__name__}: {error}"
            ) from error

    def _fitted(self, batch: Batch, position: int, size: int | None = None) -> tuple[PyTree, jax.Array]:
        """The batch on the device, of the size of the first one."""
        where = f"ys: batch {position} of pass {self.passes}"
        ys = jax.tree.map(_as_array, batch.ys)
        count = _length(ys, where)
        kinds = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(ys)]
        kind = jax.tree.structure(ys), kinds
        if self.first is None:
            self.first = count, kind
        if kind != self.first[1]:
            raise StreamError(f"{where}: got data [B, ...] of {_told(kinds)}, expected {_told(self.first[1][1])}")
        size = self.first[0] if size is None else size
        if count > size:
            raise StreamError(f"{where}: got {count} data, expected at most {size} as in the first batch")
        weights = np.asarray(batch.weights)
        if weights.shape != (count,):
            raise StreamError(f"{where}: got weights of shape {list(weights.shape)}, expected [{count}]")
        pad = size - count
        # copies of a datum that is there: what pads must be something that the model can read
        filled = jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[:1], pad, 0)]) if pad else a, ys)
        return jax.tree.map(jnp.asarray, filled), jnp.asarray(np.pad(weights, (0, pad)), self.dtype)

    def _rows(self) -> int:
        return self.first[0]


def sample(stream: Any, count: int, seed: int = 0) -> PyTree:
    """Data drawn from a stream, each as likely as any other, to begin from: `init(key, sample(stream, 10_000), ...)`.

    One pass, in the memory of a batch and of what is drawn (reservoir sampling; Vitter 1985, algorithm R).

    Args:
      stream: as in `fit`.
      count: how many data; all where there are fewer.
      seed: of the draw.

    >>> sample(Batches(np.arange(100.0), 10), 5).shape
    (5,)
    """
    require_count("count", count)
    rng = np.random.default_rng(seed)
    kept: Any = None
    seen = 0
    for batch in stream() if callable(stream) else stream:
        ys = jax.tree.map(_as_array, batch.ys if isinstance(batch, Batch) else batch)
        size = _length(ys, f"stream: the batch after {seen} data")
        places = np.arange(seen, seen + size)
        late = places >= count
        # datum i takes the place of one of those kept with probability count / (i + 1)
        places[late] = rng.integers(0, places[late] + 1)
        stay = places < count
        if kept is None:
            kept = jax.tree.map(lambda a: np.empty((count, *a.shape[1:]), a.dtype), ys)
        for mine, new in zip(jax.tree.leaves(kept), jax.tree.leaves(ys), strict=True):
            mine[places[stay]] = new[stay]  # of two for one place the later one stays
        seen += size
    if kept is None:
        raise StreamError("stream: gave no batch")
    return jax.tree.map(lambda a: jnp.asarray(a[: min(seen, count)]), kept)


def _weighted(ys: PyTree) -> Batch:
    leaves = jax.tree.leaves(ys)
    return Batch(ys, np.ones(np.shape(leaves[0])[:1] if leaves else 0))


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, np.ndarray | jax.Array) else np.asarray(leaf)


def _length(ys: PyTree, where: str) -> int:
    try:
        return batch_length(ys)
    except (TypeError, ValueError) as error:
        raise StreamError(f"{where}: {error}") from error


def _told(kinds: list) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in kinds) or "no array"
