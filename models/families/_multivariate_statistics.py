"""Sufficient statistics of a multivariate normal, and how a tap reads them off one datum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import PRECISION

from ._checks import weighted


class Statistics(NamedTuple):
    """Sums over data of functions of the whitened residual u = W (x − mean) of the measuring family.

    Attributes:
      count: Σ weight, [*batch]; Σ 1 where data have none.
      first: Σ weight u, [*batch, D].
      second: Σ weight u uᵀ, [*batch, D, D]; tied: summed over the batch, [D, D]; spherical: its trace, [*batch].
      scale_count: Σ 1 for the covariance, [*batch]; differs from count where data have weights, or a
        prior speaks of one of the two.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    first: jax.Array
    second: jax.Array
    scale_count: jax.Array


def _contract_full(tap: Statistics, u: jax.Array) -> jax.Array:
    batch = tuple(range(u.ndim - 1))
    # dot_general, and no sum with an array that is not batched: under vmap the data stay the last axis, as the products
    # want it
    projected = jax.lax.dot_general(tap.second, u, (((u.ndim,), (u.ndim - 1,)), (batch, batch)), precision=PRECISION)
    linear = jax.lax.dot_general(tap.first, u, (((u.ndim - 1,), (u.ndim - 1,)), (batch, batch)), precision=PRECISION)
    return tap.count + tap.scale_count + linear + jnp.sum(projected * u, -1)


def _contract_tied(tap: Statistics, u: jax.Array) -> jax.Array:
    projected = jnp.einsum("ij,...j->...i", tap.second, u, precision=PRECISION)
    return tap.count + tap.scale_count + jnp.sum((projected + tap.first) * u, -1)


def _contract_spherical(tap: Statistics, u: jax.Array) -> jax.Array:
    return tap.count + tap.scale_count + jnp.sum(tap.first * u, -1) + tap.second * jnp.sum(jnp.square(u), -1)


CONTRACTS = {"full": _contract_full, "tied": _contract_tied, "spherical": _contract_spherical}
WEIGHTED = {name: weighted(contract) for name, contract in CONTRACTS.items()}
