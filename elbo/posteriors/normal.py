"""Gaussian latents with a diagonal covariance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._polynomial import separable
from . import event
from .derive import origin
from .protocol import same_shapes


@event.register
@dataclass(frozen=True)
class NormalPosterior:
    """z ~ N(loc, diag exp(log_scale)²), reparameterised as z = loc + exp(log_scale) η.

    Args:
      loc: [D], floating point; or any other shape of z.
      log_scale: log standard deviations, shaped like loc, or one for several numbers where it broadcasts to that.

    >>> q = NormalPosterior(jnp.zeros(2), jnp.zeros(2))
    >>> q.entropy().tolist(), q.expect_quadratic(lambda z: z @ z).tolist()  # ln 2πe, 1 + 1
    (2.8379, 2.0)
    """

    loc: jax.Array
    log_scale: jax.Array
    reparameterized: ClassVar[bool] = True

    def __post_init__(self):
        event.remember_rank(self, self.loc)

    def sample(self, key: jax.Array) -> jax.Array:
        """loc + exp(log_scale) η with η ~ N(0, I); differentiable in the parameters."""
        loc, log_scale = self._parameters()
        return loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape, loc.dtype)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln N(z; loc, diag exp(log_scale)²), quadratic in z."""
        loc, log_scale = self._parameters()
        same_shapes("z", z, loc)
        eta = (z - loc) * jnp.exp(-log_scale)
        return -0.5 * jnp.sum(jnp.square(eta) + 2 * log_scale + jnp.log(2 * jnp.pi))

    def entropy(self) -> jax.Array:
        """Σ log_scale + D/2 ln 2πe."""
        _, log_scale = self._parameters()
        return jnp.sum(log_scale + 0.5 * (1 + jnp.log(2 * jnp.pi)))

    def mode(self) -> jax.Array:
        """loc."""
        return self._parameters()[0]

    def mean(self) -> jax.Array:
        """loc."""
        return self._parameters()[0]

    def expect_quadratic(self, f: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """E f(z) = f(loc) + ½ Σ_d H_dd exp(log_scale_d)², exactly, of a scalar f quadratic in z with Hessian H.

        One Hessian-vector product where f is visibly separable, D of them otherwise: in a VAE they take as long as the
        rest of a step (784-400-20, batch 128: 9.2 ms in place of 5.3 on one core).
        """
        loc, log_scale = self._parameters()
        zero, gradient = origin(f, loc), jax.grad(f)

        def column(v):
            return jax.jvp(gradient, (zero,), (v,))[1]

        if separable(f, zero):
            curvature = column(jnp.ones_like(zero))
        else:
            units = jnp.eye(zero.size, dtype=zero.dtype).reshape(-1, *zero.shape)
            rows = jax.vmap(column)(zero + units).reshape(zero.size, zero.size)
            curvature = jnp.diagonal(rows).reshape(zero.shape)
        return f(loc) + 0.5 * jnp.sum(curvature * jnp.exp(2 * log_scale))

    def _parameters(self) -> tuple[jax.Array, jax.Array]:
        """loc and log_scale of one shape."""
        event.require_datum(self, loc=self.loc, log_scale=self.log_scale)
        loc, log_scale = jnp.shape(self.loc), jnp.shape(self.log_scale)
        if len(log_scale) > len(loc) or any(n not in (1, m) for m, n in zip(loc[::-1], log_scale[::-1], strict=False)):
            raise ValueError(f"loc, log_scale: got shapes {[list(loc), list(log_scale)]}, expected the same shape")
        return self.loc, jnp.broadcast_to(self.log_scale, loc)
