"""Covariances of Gaussian families in the shapes that scikit-learn and hmmlearn give them."""

import jax
import jax.numpy as jnp

from elbo.models.families import MultivariateNormal, Normal


def covariances(family: Normal | MultivariateNormal) -> jax.Array:
    """As scikit-learn has them: full [K, D, D], tied [D, D], diag [K, D], spherical [K]."""
    if isinstance(family, Normal):
        return family.scale() ** 2
    if family.covariance_type == "spherical":
        return family.scale()[:, 0] ** 2
    return family.covariance()


def matrices(family: Normal | MultivariateNormal) -> jax.Array:
    """As hmmlearn gives them: a matrix for each state, whatever the type, [K, D, D]."""
    if isinstance(family, Normal):
        return jax.vmap(jnp.diag)(family.scale() ** 2)
    return jnp.broadcast_to(family.covariance(), (*family.mean.shape, family.event_size))
