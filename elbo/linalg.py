"""Factorisations of many small matrices in plain JAX: a loop over columns, vectorised over the batch.

No LAPACK call is made: on the CPU two independent batched calls in one program deadlock in jaxlib 0.10.x.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._devices import axes_of, varying
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


@jax.jit
def triangularize(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of a least-squares problem |a x − b|² made a triangle: Q a = (r, 0) and Q b = (c, rest), Q orthogonal.

    By Householder reflections, onto the row with the largest entry of a column: rows may differ in size by more than
    the digits of the dtype (Cox & Higham 1998), where the products aᵀ a would lose the small ones. r does not read b.

    Args:
      a: [..., M, N], M >= N.
      b: [..., M].

    Returns:
      r: [..., N, N], upper triangular, its diagonal not negative, and 0 where a has not full rank.
      c: [..., N].
      rest: [..., M], with N zeros; its square is the smallest |a x − b|² where a has full rank.

    >>> r, c, rest = triangularize(jnp.array([[3.0], [4.0]]), jnp.array([1.0, 3.0]))
    >>> r.tolist(), c.tolist(), jnp.sum(rest**2).tolist()
    ([[5.0]], [3.0], 1.0)
    """
    count, size = a.shape[-2:]
    rows, results = jnp.arange(count), jnp.arange(size)

    def column(j, carry):
        a, b, free, r, c = carry  # rows that have gone into r are 0
        x = jax.lax.dynamic_index_in_dim(a, j, -1, keepdims=False)
        height = jax.lax.stop_gradient(jnp.where(free, jnp.abs(x), -1))
        pivot = rows == jnp.argmax(height, -1, keepdims=True)
        unit = jnp.max(height, -1, keepdims=True)
        some = unit > 0
        x = x / jnp.where(some, unit, 1)
        head = jnp.sum(jnp.where(pivot, x, 0), -1, keepdims=True)
        length = jnp.sqrt(jnp.sum(jnp.where(some, x * x, 1), -1, keepdims=True))
        sign = jnp.where(head < 0, -1, 1).astype(x.dtype)
        # (I − v vᵀ / h) x = −sign · length e_pivot
        v = jnp.where(some, jnp.where(pivot, x + sign * length, x), 0)
        h = length * (length + jnp.abs(head))
        turn = jnp.where(some, -sign, 1)
        a = a - v[..., None] * (jnp.sum(v[..., None] * a, -2, keepdims=True) / h[..., None])
        b = b - v * (jnp.sum(v * b, -1, keepdims=True) / h)
        row = turn[..., None] * jnp.sum(jnp.where(pivot[..., None], a, 0), -2, keepdims=True)
        side = turn * jnp.sum(jnp.where(pivot, b, 0), -1, keepdims=True)
        here = results == j
        r, c = jnp.where(here[:, None], row, r), jnp.where(here, side, c)
        return jnp.where(pivot[..., None], 0, a), jnp.where(pivot, 0, b), free & ~pivot, r, c

    # r, whose start depends on a alone, stays common to all data where a is
    start = a, b, jnp.ones(a.shape[:-1], bool), jnp.zeros_like(a[..., :size, :]), jnp.zeros_like(b[..., :size])
    _, rest, _, r, c = jax.lax.fori_loop(0, size, column, varying(start, axes_of(a, b)), unroll=1)
    return jnp.triu(r), c, rest


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


@jax.custom_jvp
def limit(lower: jax.Array, unit: jax.Array) -> jax.Array:
    """T W for lower triangular W and T [..., D, D], such that A = W diag(unit) has no singular value above 1.

    With Σ⁻¹ = Wᵀ W: eigenvalues of Σ, in units of `unit`, that are below 1 are raised to 1, and no other is changed.
    Where none is below, T is I: a sum of squares usually tells so, and costs all there is.

    Args:
      lower: W, [..., D, D].
      unit: [..., D], not negative.

    >>> limit(jnp.diag(jnp.array([4.0, 0.25])), jnp.ones(2)).tolist()
    [[1.0, 0.0], [0.0, 0.25]]
    """
    return matmul(_limiter(lower, unit), lower)


@limit.defjvp
def _limit_jvp(primals, tangents):
    # T W = Qᵀ U min(σ, 1) Vᵀ. With Z = dW W⁻¹, M = Uᵀ (Z + Zᵀ) U and P = Qᵀ U: d(T W) = Φ(P (M ∘ K) Pᵀ) T W, where K is
    # what the divided differences of min(σ², 1) make of the rates of σ², and Φ takes the lower half
    (lower, unit), (dlower, _) = primals, tangents
    vectors, values = _left_singular(lower * unit[..., None, :])
    limiter = _limiter(lower, unit)
    limited, needed = matmul(limiter, lower), jnp.any(values > 1, -1)[..., None, None]
    bounded = jnp.minimum(values, 1)
    ratio = values / jnp.where(bounded > 0, bounded, 1)
    square, cut = values**2, bounded**2
    gap, rise = (a[..., :, None] - a[..., None, :] for a in (square, cut))
    both = (values > 1)[..., :, None] & (values > 1)[..., None, :]
    slope = jnp.where(gap == 0, jnp.where(both, 0, 1), rise / jnp.where(gap == 0, 1, gap))
    turned = matmul(limiter, vectors) * ratio[..., None, :]
    rate = matmul(jnp.tril(dlower), triangular_inverse(lower))
    inner = matmul(jnp.swapaxes(vectors, -1, -2), matmul(rate + jnp.swapaxes(rate, -1, -2), vectors))
    inner = inner * slope * ratio[..., :, None] * ratio[..., None, :]
    outer = matmul(turned, matmul(inner, jnp.swapaxes(turned, -1, -2)))
    half = jnp.tril(outer, -1) + 0.5 * outer * jnp.eye(outer.shape[-1], dtype=outer.dtype)
    return limited, jnp.where(needed, matmul(half, limited), dlower)


def count_above(a: jax.Array, least: float) -> jax.Array:
    """How many singular values of A [..., D, D] are above `least` > 0, int [...]. O(D³), without finding any of them.

    As many as least² I − A Aᵀ has negative pivots (Sylvester's law of inertia).

    >>> count_above(jnp.diag(jnp.array([4.0, 0.25])), 1.0).tolist()
    1
    """
    unit = jnp.maximum(jnp.max(abs(a), (-2, -1), keepdims=True), 1)  # squares of what is larger need not be numbers
    a, size = a / unit, a.shape[-1]
    rest = (least / unit) ** 2 * jnp.eye(size, dtype=a.dtype) - matmul(a, jnp.swapaxes(a, -1, -2))
    tiny = jnp.finfo(a.dtype).tiny ** 0.5

    def column(j, carry):
        rest, count = carry
        below = jax.lax.dynamic_index_in_dim(rest, j, -1, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(below, j, -1)
        pivot = jnp.where(abs(pivot) > tiny, pivot, tiny)
        rest = rest - below[..., :, None] * (below / pivot)[..., None, :]
        return rest, count + (pivot[..., 0] < 0)

    start = varying((rest, jnp.zeros(a.shape[:-2], jnp.int32)), axes_of(rest))
    return jax.lax.fori_loop(0, size, column, start)[1]


def _limiter(lower: jax.Array, unit: jax.Array) -> jax.Array:
    """T of `limit`. What is far above 1 comes down by stages of a factor 1000, so that T keeps its digits."""
    size = lower.shape[-1]
    identity = jnp.eye(size, dtype=lower.dtype)
    rows = jnp.arange(size)

    def stage(carry):
        limiter, _ = carry
        vectors, values = _left_singular(matmul(limiter, lower) * unit[..., None, :])
        level = jnp.maximum(jnp.max(values, -1, keepdims=True) / 1000, 1)
        above = values > level
        # G = I − Σ u uᵀ (1 − level / σ) over the σ above does it; so does T in G = Q T, and that is triangular
        taken = jnp.where(above, 1 - level / jnp.where(above, values, 1), 0)
        symmetric = identity - matmul(vectors * taken[..., None, :], jnp.swapaxes(vectors, -1, -2))
        triangle = jnp.where(jnp.any(above, -1)[..., None, None], _last_to_first(symmetric), identity)
        return matmul(triangle, limiter), level[..., 0] > 1

    def _last_to_first(matrix):
        def row(i, carry):  # Gram and Schmidt, from the last column
            rest, triangle = carry
            here = rows == size - 1 - i
            last = jax.lax.dynamic_index_in_dim(rest, size - 1 - i, -1, keepdims=False)
            norm = jnp.sqrt(jnp.sum(last**2, -1, keepdims=True))
            along = matmul((last / norm)[..., None, :], rest)[..., 0, :]
            along = jnp.where(rows < size - 1 - i, along, jnp.where(here, norm, 0))
            triangle = jnp.where(here[:, None], along[..., None, :], triangle)
            return rest - (last / norm)[..., :, None] * along[..., None, :], triangle

        return jax.lax.fori_loop(0, size, row, (matrix, varying(jnp.zeros_like(matrix), axes_of(matrix))))[1]

    needed = jnp.sum((lower * unit[..., None, :]) ** 2, (-2, -1)) > 1
    start = varying((jnp.broadcast_to(identity, lower.shape), needed), axes_of(lower, unit))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), stage, start)[0]


def _left_singular(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Left singular vectors [..., D, D] and values [..., D] by one-sided Jacobi rotations (Hestenes 1958).

    In as many turns as the batch needs: none where the sum of squares shows that all values are below 1; then
    they are not singular values, but below 1 all the same. Columns are rotated in pairs, D/2 at a time (round robin).
    """
    size, eps = a.shape[-1], jnp.finfo(a.dtype).eps
    half = (size + 1) // 2
    columns = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 2 * half - size)])
    order = [0, half, *range(1, half - 1), *range(half + 1, 2 * half), half - 1] if half > 1 else [0, 1]

    def rotate(_, carry):
        columns, off = carry
        one, two = columns[..., :half], columns[..., half:]
        p, q, r = jnp.sum(one**2, -2), jnp.sum(two**2, -2), jnp.sum(one * two, -2)
        product = jnp.sqrt(p) * jnp.sqrt(q)
        cosine = jnp.where(product > 0, jnp.abs(r) / jnp.where(product > 0, product, 1), 0)
        turned = cosine > eps
        zeta = (q - p) / jnp.where(turned, 2 * r, 1)
        tangent = jnp.where(turned, jnp.where(zeta < 0, -1, 1) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2)), 0)
        c = (1 / jnp.sqrt(1 + tangent**2))[..., None, :]
        s = c * tangent[..., None, :]
        columns = jnp.concatenate([c * one - s * two, s * one + c * two], -1)[..., jnp.array(order)]
        return columns, jnp.maximum(off, jnp.max(cosine, -1))

    def sweep(carry):
        columns, off, count = carry
        columns, off = jax.lax.fori_loop(0, max(2 * half - 1, 1), rotate, (columns, jnp.zeros_like(off)))
        return columns, off, count + 1

    needed = jnp.where(jnp.sum(a**2, (-2, -1)) >= 1, jnp.ones((), a.dtype), 0)
    start = columns, needed, jnp.zeros((), jnp.int32)
    columns, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[1] > 8 * size * eps) & (c[2] < 30), sweep, start)
    norms = jnp.sqrt(jnp.sum(columns**2, -2))
    if 2 * half > size:  # the column of zeros is where it was: a round has brought all back
        columns, norms = columns[..., :size], norms[..., :size]
    return columns / jnp.where(norms > 0, norms, 1)[..., None, :], norms


def _square(name: str, a: jax.Array) -> int:
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ValueError(f"{name}: got {a.dtype}{list(a.shape)}, expected floating-point square matrices [..., D, D]")
    return a.shape[-1]
