"""A chart of all spans of a sentence, laid out so that the children of all spans of one width are slices of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Chart(NamedTuple):
    """What belongs to each span. Spans of no width, of one word and those not yet computed hold the filling.

    A span of width w from word i on has as left children the spans of width k from i on, and as right children the
    spans of width w − k that end where it ends. Both are rows of an array, in the same order of k, if one array is
    sorted by start and width, and the other by end and by width, the largest first.

    Attributes:
      by_start: [T, T+1, ...], at [start, width].
      by_end: [T+1+pad, T+pad, ...], at [end, T − width].
    """

    by_start: jax.Array
    by_end: jax.Array

    def left(self, count: int, splits: int) -> jax.Array:
        """Left children of spans from words 0..count-1 on: widths 2..splits+1, [count, splits, ...]."""
        return self.by_start[:count, 2 : 2 + splits]

    def right(self, width: jax.Array, count: int, splits: int) -> jax.Array:
        """The right children that go with them, for spans of one width, [count, splits, ...]."""
        return cut(self.by_end, (width, self.frames - width + 2), (count, splits))

    def shorter_left(self, width: jax.Array, count: int) -> jax.Array:
        """What is left of the spans without their last word, [count, ...]."""
        return cut(self.by_start, (0, width - 1), (count, 1))[:, 0]

    def shorter_right(self, width: jax.Array, count: int) -> jax.Array:
        """What is left of the spans without their first word, [count, ...]."""
        return cut(self.by_end, (width, self.frames - width + 1), (count, 1))[:, 0]

    def put(self, width: jax.Array | int, rows: jax.Array) -> "Chart":
        """The chart with the spans of one width, from words 0, 1, … on, [count, ...]; those past the end are junk."""
        rows = rows[:, None]
        return Chart(update(self.by_start, rows, (0, width)), update(self.by_end, rows, (width, self.frames - width)))

    @property
    def frames(self) -> int:
        """T."""
        return self.by_start.shape[0]


def blank(frames: int, fill: Any, tail: tuple[int, ...], dtype: Any, parts: int = 4) -> Chart:
    """A chart for a sweep in so many parts that holds the filling everywhere."""
    pad = max([last - first + 1 for first, last in segments(frames, parts)], default=1)
    shapes = (frames, frames + 1), (frames + 1 + pad, frames + pad)
    return Chart(*(jnp.full((*shape, *tail), fill, dtype) for shape in shapes))


def segments(frames: int, parts: int = 4) -> list[tuple[int, int]]:
    """The widths from 3 on in a few ranges, the last one included.

    All widths of a range are treated as if they had as many spans as its first and as many splits as its last. Sums
    over splits then take six times the work that is needed with one range, 1.9 times with four; compiling takes time
    for each range, which short sentences are not worth.
    """
    parts = max(1, min(parts, (frames - 2) // 6))
    edges = sorted({3 + round(max(frames - 2, 0) * part / parts) for part in range(parts + 1)})
    return [(a, b - 1) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def sweep(frames: int, step: Callable[..., Any], carry: Any, parts: int = 4, reverse: bool = False) -> Any:
    """`carry = step(width, carry, count, splits)` for all widths from 3 on; each range of widths is one loop."""
    for first, last in segments(frames, parts)[:: -1 if reverse else 1]:
        sizes = frames - first + 1, max(last - 3, 1)

        def one(i, carry, first=first, last=last, sizes=sizes):
            return step(first + last - i if reverse else i, carry, *sizes)

        carry = jax.lax.fori_loop(first, last + 1, one, carry)
    return carry


def cut(array: jax.Array, start: tuple, size: tuple[int, ...]) -> jax.Array:
    """A part of the first two axes of an array."""
    return jax.lax.dynamic_slice(array, _corner(array, start), (*size, *array.shape[2:]))


def update(array: jax.Array, part: jax.Array, start: tuple) -> jax.Array:
    """The array with that part replaced."""
    return jax.lax.dynamic_update_slice(array, part, _corner(array, start))


def add(array: jax.Array, part: jax.Array, start: tuple) -> jax.Array:
    """The array with a part added to it."""
    return update(array, cut(array, start, part.shape[:2]) + part, start)


def _corner(array: jax.Array, start: tuple) -> tuple:
    return tuple(jnp.asarray(i, jnp.int32) for i in (*start, *(0 for _ in array.shape[2:])))
