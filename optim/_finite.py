"""Parameters are never replaced by NaN."""

import jax
import jax.numpy as jnp

from elbo.extend import PyTree


def select(first: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """The tree a if `first` (a bool scalar), else b."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), a, b)


def finite_or(new: PyTree, old: PyTree) -> PyTree:
    """Each number of new that is finite, else that of old; the trees must match."""
    return jax.tree.map(lambda a, b: jnp.asarray(jnp.where(jnp.isfinite(a), a, b), b.dtype), new, old)
