"""The dtype that a model computes in: its parameters decide, families compute in float32 at least, sums over data too.

Floating-point data are converted to the dtype of the parameters (the common one where they differ), wherever data and
parameters meet: in every rule, in `elbo`, `evidence` and `decompose`. Integers narrower than 32 bits become int32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ._family import is_family
from ._types import PyTree
from .numerics import LOG_ZERO, widen


def widened(params: PyTree) -> PyTree:
    """The parameters with families of less than float32 in float32; networks keep their dtype.

    >>> widened({"kernel": jnp.ones(2, jnp.bfloat16)})["kernel"].dtype
    dtype(bfloat16)
    """
    return jax.tree.map(lambda node: jax.tree.map(_wide, node) if is_family(node) else node, params, is_leaf=is_family)


def dtype_of(params: PyTree) -> Any:
    """The floating-point dtype that these parameters compute in; JAX's default without a floating-point number."""
    kinds = [leaf.dtype for leaf in map(jnp.asarray, jax.tree.leaves(widened(params))) if _is_floating(leaf)]
    return jnp.result_type(*kinds) if kinds else jnp.result_type(float)


def converted(ys: PyTree, dtype: Any) -> PyTree:
    """Data as a model computes with them: floating-point arrays of this dtype, integers of 32 bits or more.

    A length or a number of values does not fit into an int8, and would wrap around there.

    >>> [leaf.dtype.name for leaf in converted((jnp.ones(2), jnp.ones(2, jnp.uint8)), jnp.bfloat16)]
    ['bfloat16', 'int32']
    """

    def convert(leaf):
        leaf = jnp.asarray(leaf)
        if _is_floating(leaf):
            return leaf.astype(dtype)
        return widen(leaf)

    return jax.tree.map(convert, ys)


def at_least_single(dtype: Any) -> Any:
    """The dtype that sums over data are taken in: this one, or float32 if it is less."""
    return jnp.promote_types(dtype, jnp.float32)


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _wide(leaf):
    leaf = jnp.asarray(leaf)
    if not _is_floating(leaf) or leaf.dtype == at_least_single(leaf.dtype):
        return leaf
    # float16 holds no LOG_ZERO, but −∞
    return jnp.clip(leaf.astype(jnp.float32), LOG_ZERO, -LOG_ZERO)
