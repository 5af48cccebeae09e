"""Mixtures of any family."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import elbo

from .families import Categorical


class Theta(NamedTuple):
    """Parameters of a mixture of K components: weights, `Categorical` over K; components, a family with batch shape (K,)."""

    weights: Categorical
    components: Any


def log_joint(theta: Theta, z: jax.Array, y: Any) -> jax.Array:
    """ln P(z, y) = Σ_k z_k (ln π_k + ln p_k(y)); z is the indicator of the component, [K]."""
    return theta.weights.log_prob(z) + jnp.dot(z, theta.components.log_prob(y), precision=elbo.PRECISION)


def model(components: int) -> elbo.Model:
    """The mixture model."""
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(components)))
