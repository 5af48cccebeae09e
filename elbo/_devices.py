"""Where arrays lie: over which axes of a mesh they vary inside a jax.shard_map, and meshes with explicit axes."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from ._types import PyTree

T = TypeVar("T")


def axes_of(*trees: PyTree) -> frozenset:
    """The mesh axes that any of the arrays vary over; none outside of a shard_map, or without its check_vma."""
    return frozenset().union(*(varies_over(jax.typeof(leaf)) for leaf in jax.tree.leaves(trees)))


def varying(tree: PyTree, axes: frozenset) -> PyTree:
    """The same arrays, said to vary over these axes (and those that they vary over already).

    Each device then has its own: JAX sums the gradient in an array that is the same on all devices over them, and
    refuses loops and branches that take such an array and give one that varies.
    """
    return jax.tree.map(lambda leaf: _vary(leaf, axes), tree) if axes else tree


def explicit_mesh(*trees: PyTree) -> AbstractMesh | None:
    """The mesh with explicit axes, as `jax.make_mesh` makes it, that an array is spread over; None if there is none."""
    return next((sharding.mesh for leaf in jax.tree.leaves(trees) if (sharding := _spread(leaf))), None)


def placed_by_compiler(f: Callable[..., Any], mesh: AbstractMesh, out: PyTree) -> Callable[..., Any]:
    """f, whose inside need not say where on a mesh with explicit axes its arrays lie.

    Args:
      f: of arrays.
      mesh: see `explicit_mesh`.
      out: PartitionSpecs of what it returns, a prefix.
    """
    place = jax.tree.map(lambda s: NamedSharding(mesh, s), out, is_leaf=lambda s: isinstance(s, PartitionSpec))
    return jax.sharding.auto_axes(f, out_sharding=place)


def anywhere(f: Callable[..., T], *, like_data: bool = False) -> Callable[..., T]:
    """f, also of arrays on a mesh with explicit axes.

    What it returns lies on all devices; where `like_data`, spread over them along the leading axis as the arrays are.
    """

    @wraps(f)
    def anywhere_placed(*args, **kwargs):
        leaves, treedef = jax.tree.flatten((args, kwargs))
        sharding = next(filter(None, map(_spread, leaves)), None)
        if sharding is None:
            return f(*args, **kwargs)
        # also those that lie on all devices of the mesh, as parameters do: f may not close over them
        placed = {i: leaf for i, leaf in enumerate(leaves) if _lies_on(leaf, sharding.mesh)}

        def run(arrays):
            own = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
            args, kwargs = jax.tree.unflatten(treedef, own)
            return f(*args, **kwargs)

        axis = sharding.spec[0] if like_data else None
        # compiled, for an operation without operands does not know the mesh
        return jax.jit(placed_by_compiler(run, sharding.mesh, PartitionSpec(axis)))(placed)

    return anywhere_placed


def _spread(leaf: Any) -> Any:
    """The sharding of an array that is spread over explicit axes of a mesh, else None."""
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, jax.Array) else None
    return sharding if sharding is not None and any(axis is not None for axis in sharding.spec) else None


def _lies_on(leaf: Any, mesh: AbstractMesh) -> bool:
    """Whether an array lies on a mesh, spread or not."""
    return isinstance(leaf, jax.Array) and jax.typeof(leaf).sharding.mesh == mesh


def varies_over(kind: Any) -> frozenset:
    """The mesh axes that a type varies over: `vma`, from jax 0.10 on `manual_axis_type.varying`."""
    if hasattr(kind, "vma"):
        return kind.vma or frozenset()
    return getattr(getattr(kind, "manual_axis_type", None), "varying", frozenset())


def _vary(leaf, axes):
    missing = axes - varies_over(jax.typeof(leaf))
    return jax.lax.pcast(leaf, tuple(sorted(missing)), to="varying") if missing else leaf
