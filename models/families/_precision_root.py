"""The root W of a precision, Σ⁻¹ = Wᵀ W, as it is stored: lower triangular, the logarithm of its diagonal in place."""

import jax
import jax.numpy as jnp

from elbo.linalg import ldl, limit, matmul, triangular_inverse

from ._checks import bound_variance


def triangle(root: jax.Array) -> jax.Array:
    """The lower triangular matrix [..., D, D] whose diagonal is stored as its logarithm."""
    diagonal = jnp.exp(jnp.diagonal(root, axis1=-2, axis2=-1))
    return jnp.tril(root, -1) + diagonal[..., None] * jnp.eye(root.shape[-1], dtype=root.dtype)


def store(whitener: jax.Array) -> jax.Array:
    """A lower triangular matrix [..., D, D] with its diagonal replaced by the logarithm."""
    log_diagonal = jnp.log(jnp.diagonal(whitener, axis1=-2, axis2=-1))
    return jnp.tril(whitener, -1) + log_diagonal[..., None] * jnp.eye(whitener.shape[-1], dtype=whitener.dtype)


def update_root(
    root: jax.Array, covariance: jax.Array, floor: jax.Array, second: jax.Array, terms: jax.Array
) -> jax.Array:
    """Root of the precision of data whose covariance in the coordinates whitened by `root` is `covariance` [..., D, D].

    With unit lower L and pivots d, covariance = L diag(d) Lᵀ and the new root is diag(d)^-½ L⁻¹ W, where the floor does
    not bind. `second` are the second moments [..., D] whose rounding the pivots carry, `terms` see `bound_variance`.
    """
    factor, whitener = ldl(covariance), triangle(root)
    least = jnp.diagonal(whitener, axis1=-2, axis2=-1) * floor
    # where there is a floor, a pivot that is zero to rounding is far below it, which is all that matters
    scale = jnp.sqrt(bound_variance(factor.pivots, jnp.where(factor.regular, 1e-12, 1e-3) * least, second, terms))
    raw = matmul(triangular_inverse(factor.lower), whitener) / scale[..., None]
    # the maximum under Σ ⪰ diag(floor²) is that without it, with the eigenvalues in units of the floor raised to 1
    return store(limit(raw, floor))
