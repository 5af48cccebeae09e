"""Parameters are never replaced by NaN."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def keep_finite(new: Tree, old: Tree) -> tuple[Tree, jax.Array]:
    """The new tree if all its numbers are finite, else the old one; and whether they were (a bool scalar)."""
    finite = all_finite(new)
    return choose(finite, new, old), finite


def all_finite(tree: Tree) -> jax.Array:
    """Whether every floating-point number of a tree is finite; a bool scalar."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.array(True)


def choose(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    """new where a bool scalar holds, else old; the trees must match."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
