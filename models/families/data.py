"""Families seen by what uses them: which of their arguments are data, and what methods they have."""

from typing import Any

import jax
import jax.numpy as jnp

from elbo import on_support

from .categorical import Categorical

Tree = Any


def data_log_prob(family: Any, *data: Tree) -> jax.Array:
    """ln p of one datum under each component, [*batch], nats; `LOG_ZERO` for an indicator that is none.

    `Categorical.log_prob` itself is affine in sums of indicators, for the sake of latent paths; such a sum is no datum.
    """
    value = family.log_prob(*data)
    if isinstance(family, Categorical) and jnp.issubdtype(jnp.result_type(data[0]), jnp.floating):
        return on_support(value, family.supports(data[0]))
    return value


def usable(family: Any, *data: Tree) -> jax.Array:
    """Which of a batch of data, with a leading axis N, are finite and can come from the family; bool [N]."""
    flags = [jnp.all(jnp.isfinite(a).reshape(a.shape[0], -1), 1) for a in jax.tree.leaves(data) if _real(a)]
    if hasattr(family, "supports"):
        flags.append(jax.vmap(family.supports)(data[0]))
    return jnp.all(jnp.stack([jnp.ones(len(jax.tree.leaves(data)[0]), bool), *flags]), 0)


def _real(a: jax.Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def require(family: Any, method: str, user: str, meaning: str) -> None:
    """Raises unless the family has a method that not all families have.

    Args:
      family: to look at.
      method: its name.
      user: who calls it.
      meaning: its signature and what it returns.
    """
    if not callable(getattr(family, method, None)):
        raise TypeError(
            f"{user}: the family {type(family).__name__} has no method `{method}`. Add it: {meaning} (see elbo.Family)"
        )
