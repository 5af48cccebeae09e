"""Gaussian latents with a full covariance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..linalg import cholesky, matmul, triangular_inverse
from ..numerics import PRECISION
from .derive import origin, quadratic_potentials
from .protocol import same_shapes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultivariateNormalPosterior:
    """z ~ N(loc, scale_tril scale_trilᵀ), reparameterised as z = loc + scale_tril η.

    Args:
      loc: [D], floating point.
      scale_tril: [D, D], lower triangular factor of the covariance with a positive diagonal.

    >>> q = MultivariateNormalPosterior(jnp.zeros(2), jnp.array([[1.0, 0.0], [1.0, 2.0]]))
    >>> q.covariance().tolist(), q.expect_quadratic(lambda z: z @ z).tolist()
    ([[1.0, 1.0], [1.0, 5.0]], 6.0)
    """

    loc: jax.Array
    scale_tril: jax.Array
    reparameterized: ClassVar[bool] = True

    def covariance(self) -> jax.Array:
        """[D, D]."""
        _, scale_tril = self._parameters()
        return matmul(scale_tril, scale_tril.T)

    def sample(self, key: jax.Array) -> jax.Array:
        """loc + scale_tril η with η ~ N(0, I); differentiable in the parameters."""
        loc, scale_tril = self._parameters()
        return loc + jnp.dot(scale_tril, jax.random.normal(key, loc.shape, loc.dtype), precision=PRECISION)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln N(z; loc, Σ), quadratic in z. O(D³) for the inverse of the factor."""
        loc, scale_tril = self._parameters()
        same_shapes("z", z, loc)
        eta = jnp.dot(triangular_inverse(scale_tril), z - loc, precision=PRECISION)
        return -0.5 * jnp.sum(jnp.square(eta) + jnp.log(2 * jnp.pi)) - self._log_det()

    def entropy(self) -> jax.Array:
        """½ ln det 2πe Σ."""
        return self._log_det() + 0.5 * self.loc.size * (1 + jnp.log(2 * jnp.pi))

    def mode(self) -> jax.Array:
        """loc."""
        return self._parameters()[0]

    def mean(self) -> jax.Array:
        """loc."""
        return self._parameters()[0]

    def expect_quadratic(self, f: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """E f(z) = f(loc) + ½ tr H Σ, exactly, of a scalar f quadratic in z with Hessian H. D products with H."""
        loc, _ = self._parameters()
        hessian = jax.hessian(f)(origin(f, loc))
        return f(loc) + 0.5 * jnp.sum(hessian * self.covariance())

    def _log_det(self) -> jax.Array:
        _, scale_tril = self._parameters()
        return jnp.sum(jnp.log(jnp.diagonal(scale_tril)))

    def _parameters(self) -> tuple[jax.Array, jax.Array]:
        """loc and scale_tril; raises unless they are those of one datum."""
        shapes = jnp.shape(self.loc), jnp.shape(self.scale_tril)
        if len(shapes[0]) != 1 or shapes[1] != 2 * shapes[0]:
            raise ValueError(
                f"loc, scale_tril: got shapes {[list(s) for s in shapes]}, expected [D] and [D, D]; use jax.vmap over "
                "a batch: jax.vmap(lambda q: q.entropy())(q)"
            )
        dtypes = [jnp.result_type(a) for a in (self.loc, self.scale_tril)]
        if any(not jnp.issubdtype(d, jnp.floating) for d in dtypes):
            raise ValueError(f"loc, scale_tril: got {[str(d) for d in dtypes]}, expected floating-point numbers")
        return self.loc, self.scale_tril


@dataclass(frozen=True)
class gaussian:  # noqa: N801 - reads as a function: exact(log_joint, gaussian(2))
    """Structure of a real vector z [D] in which log_joint is quadratic: `gaussian(D)`.

    >>> gaussian(2).posterior(lambda z: -z @ z).covariance().tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """

    size: int

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> MultivariateNormalPosterior:
        """The exact posterior, with precision −Hessian. Raises unless log_joint is quadratic; NaN if not concave."""
        gradient, precision = quadratic_potentials(log_joint, self.size)
        # precision = U Uᵀ with U upper triangular, so that U⁻ᵀ is the lower factor of the covariance
        upper = cholesky(precision[::-1, ::-1])[::-1, ::-1]
        scale_tril = triangular_inverse(upper.T)
        loc = jnp.dot(scale_tril, jnp.dot(scale_tril.T, gradient, precision=PRECISION), precision=PRECISION)
        return MultivariateNormalPosterior(loc, scale_tril)
