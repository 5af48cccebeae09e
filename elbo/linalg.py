"""Factorisations of many small matrices in plain JAX: a loop over columns, vectorised over the batch.

No LAPACK call is made: on the CPU two independent batched calls in one program deadlock in jaxlib 0.10.x.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .numerics import PRECISION

_UNROLLED = 8


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product at full precision, [..., M, P] times [..., P, N]."""
    return jnp.matmul(a, b, precision=PRECISION)


class LDL(NamedTuple):
    """A = lower diag(pivots) lowerᵀ with a unit lower triangle.

    Attributes:
      lower: [..., D, D], ones on the diagonal.
      pivots: [..., D]; pivot j is the residual of column j after a regression on the columns before it.
      regular: [..., D] bool; False where the pivot is zero to rounding: that column's coefficients were set to 0.
    """

    lower: jax.Array
    pivots: jax.Array
    regular: jax.Array


@jax.jit
def ldl(a: jax.Array) -> LDL:
    """LDLᵀ factorisation of symmetric positive semi-definite matrices [..., D, D]; reads the lower triangle.

    A pivot below 8 ε A_jj is rounding noise. It is kept, its column of `lower` is not used (zeros). O(D³) per matrix.

    >>> f = ldl(jnp.array([[4.0, 2.0], [2.0, 3.0]]))
    >>> f.lower.tolist(), f.pivots.tolist()
    ([[1.0, 0.0], [0.5, 1.0]], [4.0, 2.0])
    """
    size = _square("a", a)
    eps = jnp.finfo(a.dtype).eps
    diagonal = jnp.diagonal(a, axis1=-2, axis2=-1)
    rows = jnp.arange(size)

    def column(j, carry):
        lower, pivots, regular = carry
        weighted = jax.lax.dynamic_index_in_dim(lower, j, -2, keepdims=False) * pivots
        rest = jax.lax.dynamic_index_in_dim(a, j, -1, keepdims=False) - matmul(lower, weighted[..., None])[..., 0]
        pivot = jax.lax.dynamic_index_in_dim(rest, j, -1)
        usable = pivot > 8 * eps * jax.lax.dynamic_index_in_dim(diagonal, j, -1)
        below = jnp.where(usable & (rows > j), rest / jnp.where(usable, pivot, 1), 0)
        here = rows == j
        lower = jnp.where(here, (below + here)[..., :, None], lower)
        return lower, jnp.where(here, pivot, pivots), jnp.where(here, usable, regular)

    zero = jnp.zeros_like(diagonal)
    start = (jnp.zeros_like(a), zero, zero > 0)
    return LDL(*jax.lax.fori_loop(0, size, column, start, unroll=size if size <= _UNROLLED else 1))


@jax.custom_jvp
@jax.jit
def cholesky(a: jax.Array) -> jax.Array:
    """Lower Cholesky factors of positive definite matrices [..., D, D]; NaN where a matrix is not positive definite.

    >>> cholesky(jnp.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    factor = ldl(a)
    return factor.lower * jnp.sqrt(jnp.where(factor.pivots > 0, factor.pivots, jnp.nan))[..., None, :]


@cholesky.defjvp
def _cholesky_jvp(primals, tangents):
    # dL = L Φ(L⁻¹ dA L⁻ᵀ), Φ = lower triangle with half the diagonal (Murray 2016, eq. 9)
    (a,), (da,) = primals, tangents
    lower = cholesky(a)
    inverse = triangular_inverse(lower)
    symmetric = 0.5 * (da + jnp.swapaxes(da, -1, -2))
    inner = matmul(matmul(inverse, symmetric), jnp.swapaxes(inverse, -1, -2))
    half = jnp.tril(inner, -1) + 0.5 * inner * jnp.eye(a.shape[-1], dtype=a.dtype)
    return lower, matmul(lower, half)


@jax.custom_jvp
@jax.jit
def triangular_inverse(lower: jax.Array) -> jax.Array:
    """Inverses of lower triangular matrices [..., D, D], by forward substitution. O(D³) per matrix.

    >>> triangular_inverse(jnp.array([[2.0, 0.0], [1.0, 4.0]])).tolist()
    [[0.5, 0.0], [-0.125, 0.25]]
    """
    size = _square("lower", lower)
    lower = jnp.tril(lower)

    def row(i, inverse):
        coefficients = jax.lax.dynamic_index_in_dim(lower, i, -2)
        diagonal = jax.lax.dynamic_index_in_dim(coefficients, i, -1)
        here = jnp.arange(size) == i
        solved = (here - matmul(coefficients, inverse)) / diagonal
        return jnp.where(here[:, None], solved, inverse)

    return jax.lax.fori_loop(0, size, row, jnp.zeros_like(lower), unroll=size if size <= _UNROLLED else 1)


@triangular_inverse.defjvp
def _triangular_inverse_jvp(primals, tangents):
    (lower,), (dlower,) = primals, tangents
    inverse = triangular_inverse(lower)
    return inverse, -matmul(matmul(inverse, jnp.tril(dlower)), inverse)


def _square(name: str, a: jax.Array) -> int:
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ValueError(f"{name}: got {a.dtype}{list(a.shape)}, expected floating-point square matrices [..., D, D]")
    return a.shape[-1]
