"""A posterior is of one datum: how many axes its arrays then have, and what says so when it is given a batch."""

from dataclasses import fields
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def register(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass of arrays a pytree that remembers the rank they had when it was made (`remember_rank`).

    Inside of jax.vmap that is the rank of one datum; what jax.vmap returns has one axis more, and is told apart so.
    """
    names = tuple(field.name for field in fields(cls))  # type: ignore[arg-type]

    def flatten_with_keys(q):
        return [(jax.tree_util.GetAttrKey(name), getattr(q, name)) for name in names], q.rank

    def flatten(q):
        return [getattr(q, name) for name in names], q.rank

    def unflatten(rank, leaves):
        q = object.__new__(cls)
        for name, leaf in zip((*names, "rank"), (*leaves, rank), strict=True):
            object.__setattr__(q, name, leaf)
        return q

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def remember_rank(q: Any, array: Any) -> None:
    """Notes how many axes the array has, as `q.rank`; None where it is none (JAX makes pytrees of other things)."""
    object.__setattr__(q, "rank", getattr(array, "ndim", None))


def require_datum(q: Any, **arrays: Any) -> None:
    """Raises unless the arrays are floating point, and of one datum: of no more axes than when q was made."""
    for name, array in arrays.items():
        dtype, shape = jnp.result_type(array), jnp.shape(array)
        kind = type(q).__name__
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{name}: got {dtype}{list(shape)}, expected the floating-point numbers of a {kind}")
        if q.rank is not None and len(shape) > q.rank:
            raise ValueError(
                f"{name}: got {list(shape)}, a batch where one datum of this {kind} has {q.rank} "
                f"{'axis' if q.rank == 1 else 'axes'}; use jax.vmap over a batch: jax.vmap(lambda q: q.entropy())(q)"
            )
