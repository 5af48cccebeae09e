"""Families seen by what uses them: which of their arguments are data, and what methods they have."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from elbo.extend import PyTree
from elbo.numerics import on_support

from ._categorical import Categorical


def data_log_prob(family: Any, *data: PyTree) -> jax.Array:
    """ln p of one datum under each component, [*batch], nats; `LOG_ZERO` for an indicator that is none.

    `Categorical.log_prob` itself is affine in sums of indicators, for the sake of latent paths; such a sum is no datum.
    """
    value = family.log_prob(*data)
    if isinstance(family, Categorical) and jnp.issubdtype(jnp.result_type(data[0]), jnp.floating):
        return on_support(value, family.supports(data[0]))
    return value


def usable(family: Any, *data: PyTree) -> jax.Array:
    """Which of a batch of data, with a leading axis N, are finite and can come from the family; bool [N]."""
    flags = [jnp.all(jnp.isfinite(a).reshape(a.shape[0], -1), 1) for a in jax.tree.leaves(data) if _real(a)]
    if hasattr(family, "supports"):
        flags.append(jax.vmap(family.supports)(data[0]))
    return jnp.all(jnp.stack([jnp.ones(len(jax.tree.leaves(data)[0]), bool), *flags]), 0)


def _real(a: jax.Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def require_family(family: Any, inputs: bool = False) -> None:
    """Raises unless a start can be made of the family: a value whose log_prob reads a datum, and inputs as there are.

    Args:
      family: a family, or a mixture of one.
      inputs: whether there are inputs.
    """
    if isinstance(family, type) or not callable(getattr(family, "log_prob", None)):
        got = f"the class {family.__name__}" if isinstance(family, type) else f"{type(family).__name__} {family!r}"
        raise TypeError(
            f"family: got {got}, expected a family with batch shape (K,), such as Poisson(jnp.zeros((K, D)))"
        )
    parameters = inspect.signature(family.log_prob).parameters.values()
    needed = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    if needed > 1 + inputs:
        raise TypeError(
            f"family: {type(family).__name__}.log_prob reads an input beside the datum, and there is none here. Make "
            "the parameters yourself, or give inputs where the model has them (hmm.Frames(values, inputs))"
        )


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
