"""Sequences of different lengths in one batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._types import PyTree
from .numerics import all_finite, widen


class Padded(NamedTuple):
    """One sequence, padded to T frames; a batch of them has a leading axis N. Its padding is ignored.

    Attributes:
      values: pytree of arrays [T, ...].
      length: number of frames that count, an int scalar in 1..T.

    >>> y = Padded(jnp.array([1.0, 2.0, jnp.nan]), jnp.array(2))
    >>> y.mask().tolist(), y.clean().values.tolist()
    ([True, True, False], [1.0, 2.0, 0.0])
    """

    values: PyTree
    length: jax.Array

    @property
    def frames(self) -> int:
        """T."""
        return jax.tree.leaves(self.values)[0].shape[0]

    def mask(self) -> jax.Array:
        """Which frames count, bool [T]."""
        return jnp.arange(self.frames) < _one(self.length)

    def clean(self) -> "Padded":
        """The sequence with zeros in its padding."""
        return self._replace(values=zero_unless(self.mask(), self.values))

    def is_sound(self) -> jax.Array:
        """Whether the length is in 1..T, a bool scalar."""
        length = _one(self.length)
        return (length >= 1) & (length <= self.frames)


def stack(values: Any, lengths: Any = None) -> Padded:
    """Sequences, sentences or data sets of different lengths in one batch: `Padded` with values [N, T, ...].

    Args:
      values: a list of arrays [T_i, ...], or of pytrees of such; or one of [Σ T_i, ...], all after one another as
        hmmlearn takes them, with their `lengths`.
      lengths: [N], of the parts of values.

    Returns:
      The batch, padded with zeros to the longest. Of data sets, `jax.vmap(Padded.mask)(batch)` are weights [N, T] for
      a rule that is vmapped over `(batch.values, weights)`.

    Raises:
      ValueError: nothing, an empty part, parts that differ in more than their length, or lengths that do not add up.

    >>> batch = stack([jnp.array([1.0, 2.0]), jnp.array([3.0])])
    >>> batch.values.tolist(), batch.length.tolist(), jax.vmap(Padded.mask)(batch).tolist()
    ([[1.0, 2.0], [3.0, 0.0]], [2, 1], [[True, True], [True, False]])
    >>> stack(jnp.array([1.0, 2.0, 3.0]), [2, 1]).values.tolist()
    [[1.0, 2.0], [3.0, 0.0]]
    """
    if lengths is not None:
        ends = np.cumsum(np.asarray(lengths))
        total = {np.shape(leaf)[0] for leaf in jax.tree.leaves(values)}
        if np.ndim(lengths) != 1 or len(ends) == 0 or total != {int(ends[-1])}:
            raise ValueError(f"lengths: got {lengths}, expected whole numbers that add up to {sorted(total)}")
        values = [jax.tree.map(lambda a, b=b, e=e: a[b:e], values) for b, e in zip([0, *ends], ends, strict=False)]
    if not isinstance(values, list | tuple) or not values:
        raise ValueError("values: expected a list of arrays [T, ...], or one array with its lengths")
    parts = [jax.tree.map(np.asarray, part) for part in values]
    kinds = {(jax.tree.structure(p), *((a.shape[1:], a.dtype) for a in jax.tree.leaves(p))) for p in parts}
    sizes = [{a.shape[0] if a.ndim else 0 for a in jax.tree.leaves(part)} for part in parts]
    if len(kinds) != 1 or any(len(size) != 1 or 0 in size for size in sizes):
        shapes = sorted({str([list(a.shape) for a in jax.tree.leaves(part)]) for part in parts})
        raise ValueError(f"values: got parts of shapes {', '.join(shapes[:4])}, expected [T, ...] alike but for T >= 1")
    counts = [size.pop() for size in sizes]
    longest = max(counts)

    def pad(a):
        return np.pad(a, [(0, longest - len(a))] + [(0, 0)] * (a.ndim - 1))

    return Padded(jax.tree.map(lambda *a: jnp.asarray(np.stack([pad(x) for x in a])), *parts), jnp.asarray(counts))


class Labelled(NamedTuple):
    """Inputs with a sequence of labels that says nothing of when each occurs: a datum of CTC.

    Attributes:
      inputs: what is given, frames [T, ...] (any pytree), or these in a `Padded`.
      labels: int [L], or these in a `Padded`, whose length may be 0 here.
    """

    inputs: PyTree
    labels: PyTree


def as_padded(y: PyTree) -> Padded:
    """A datum as a `Padded` sequence: itself, or one of full length whose leaves have a leading axis T.

    Integers, the length among them, are int32 at least (`widen`).
    """
    values, length = y if isinstance(y, Padded) else (y, None)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(values)]
    if not shapes or any(shape[:1] != shapes[0][:1] for shape in shapes) or not shapes[0]:
        raise ValueError(
            f"y: got leaves of shapes {[list(s) for s in shapes]} for one sequence, expected arrays with a common "
            "leading axis T. A batch of sequences is [N, T, ...]; one sequence is ys[None]"
        )
    return Padded(widen(values), jnp.asarray(shapes[0][0], jnp.int32) if length is None else _one(length))


def _one(length: Any) -> jax.Array:
    """The length of one sequence, int32 at least; raises where it is that of a batch, or no integer."""
    if jnp.shape(length) != () or not jnp.issubdtype(jnp.result_type(length), jnp.integer):
        raise ValueError(
            f"length: got {jnp.result_type(length)}{list(jnp.shape(length))}, expected an int scalar, the frames that "
            "count of one sequence; use jax.vmap over a batch"
        )
    return widen(length)


def zero_unless(mask: jax.Array, tree: PyTree) -> PyTree:
    """Arrays [T, ...] with zeros in the frames where mask [T] is false, whatever stands there.

    >>> zero_unless(jnp.array([True, False]), jnp.array([1.0, jnp.nan])).tolist()
    [1.0, 0.0]
    """

    def zero(leaf):
        return jnp.where(mask.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(zero, tree)


def finite_where_it_counts(y: PyTree) -> jax.Array:
    """Whether each floating-point number of a datum is finite, but for the padding of what is `Padded`; a bool scalar.

    >>> bool(finite_where_it_counts(Padded(jnp.array([1.0, jnp.nan]), jnp.array(1))))
    True
    """

    def cleaned(node):
        return node.clean().values if isinstance(node, Padded) else node

    return all_finite(jax.tree.map(cleaned, y, is_leaf=lambda node: isinstance(node, Padded)))
