"""Arrays inside a jax.shard_map: over which axes of the mesh they vary from device to device."""

from typing import Any

import jax

from ._types import PyTree


def axes_of(*trees: PyTree) -> frozenset:
    """The mesh axes that any of the arrays vary over; none outside of a shard_map, or without its check_vma."""
    return frozenset().union(*(varies_over(jax.typeof(leaf)) for leaf in jax.tree.leaves(trees)))


def varying(tree: PyTree, axes: frozenset) -> PyTree:
    """The same arrays, said to vary over these axes (and those that they vary over already).

    Each device then has its own: JAX sums the gradient in an array that is the same on all devices over them, and
    refuses loops and branches that take such an array and give one that varies.
    """
    return jax.tree.map(lambda leaf: _vary(leaf, axes), tree) if axes else tree


def varies_over(kind: Any) -> frozenset:
    """The mesh axes that a type varies over: `vma`, from jax 0.10 on `manual_axis_type.varying`."""
    if hasattr(kind, "vma"):
        return kind.vma or frozenset()
    return getattr(getattr(kind, "manual_axis_type", None), "varying", frozenset())


def _vary(leaf, axes):
    missing = axes - varies_over(jax.typeof(leaf))
    return jax.lax.pcast(leaf, tuple(sorted(missing)), to="varying") if missing else leaf
