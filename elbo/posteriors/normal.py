"""Gaussian latents with a diagonal covariance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ..polynomial import separable
from .derive import origin


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normal:
    """z ~ N(loc, diag exp(log_scale)²), reparameterised as z = loc + exp(log_scale) η.

    Args:
      loc: [D], floating point.
      log_scale: [D], log standard deviations.

    >>> q = Normal(jnp.zeros(2), jnp.zeros(2))
    >>> q.entropy().tolist(), q.expect_quadratic(lambda z: z @ z).tolist()  # ln 2πe, 1 + 1
    (2.8379, 2.0)
    """

    loc: jax.Array
    log_scale: jax.Array
    reparameterized: ClassVar[bool] = True

    def sample(self, key: jax.Array) -> jax.Array:
        """loc + exp(log_scale) η with η ~ N(0, I); differentiable in the parameters."""
        return self.loc + jnp.exp(self.log_scale) * jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln N(z; loc, diag exp(log_scale)²), quadratic in z."""
        eta = (z - self.loc) * jnp.exp(-self.log_scale)
        return -0.5 * jnp.sum(jnp.square(eta) + 2 * self.log_scale + jnp.log(2 * jnp.pi))

    def entropy(self) -> jax.Array:
        """Σ log_scale + D/2 ln 2πe."""
        return jnp.sum(self.log_scale + 0.5 * (1 + jnp.log(2 * jnp.pi)))

    def mode(self) -> jax.Array:
        """loc."""
        return self.loc

    def mean(self) -> jax.Array:
        """loc."""
        return self.loc

    def expect_quadratic(self, f: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """E f(z) = f(loc) + ½ Σ_d H_dd exp(log_scale_d)², exactly, of a scalar f quadratic in z with Hessian H.

        One Hessian-vector product where f is visibly separable, D of them otherwise.
        """
        zero, gradient = origin(f, self.loc), jax.grad(f)

        def column(v):
            return jax.jvp(gradient, (zero,), (v,))[1]

        if separable(f, zero):
            curvature = column(jnp.ones_like(zero))
        else:
            curvature = jnp.diagonal(jax.vmap(column)(zero + jnp.eye(zero.size, dtype=zero.dtype)))
        return f(self.loc) + 0.5 * jnp.sum(curvature * jnp.exp(2 * self.log_scale))
