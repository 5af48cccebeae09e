import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from elbo.linalg import cholesky, ldl, matmul, triangular_inverse

from .problems import normal

pytestmark = pytest.mark.usefixtures("x64")
# 1, 2, 7: unrolled loops; 9, 40, 200: rolled
SHAPES = [(1, 1), (2, 2), (3, 7, 7), (2, 3, 9, 9), (3, 40, 40), (200, 200)]


def positive(seed: int, *shape: int) -> jax.Array:
    """Positive definite matrices with a condition number below 10 or so."""
    b = normal(seed, *shape)
    return matmul(b, jnp.swapaxes(b, -1, -2)) / shape[-1] + jnp.eye(shape[-1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_factorisations_equal_numpy(shape):
    a = positive(0, *shape)
    factor, root = ldl(a), cholesky(a)
    # well-conditioned: errors of a few times the size times 2e-16
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)
    close(root, np.linalg.cholesky(a))
    close(matmul(factor.lower * factor.pivots[..., None, :], jnp.swapaxes(factor.lower, -1, -2)), a)
    close(jnp.triu(factor.lower), jnp.broadcast_to(jnp.eye(shape[-1]), shape))
    assert factor.regular.all()
    close(triangular_inverse(root), np.linalg.inv(np.linalg.cholesky(a)))


def test_float32_is_backward_stable():
    a = positive(1, 4, 40, 40).astype(jnp.float32)
    root = cholesky(a)
    assert root.dtype == jnp.float32
    error = jnp.abs(matmul(root, jnp.swapaxes(root, -1, -2)) - a).max()
    assert error < 40 * jnp.finfo(jnp.float32).eps * jnp.abs(a).max()


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(-8, 8))
def test_any_scale(size, seed, exponent):
    a = positive(seed, size, size) * 10.0**exponent
    np.testing.assert_allclose(cholesky(a), np.linalg.cholesky(a), rtol=0, atol=1e-12 * 10.0 ** (exponent / 2))


@pytest.mark.parametrize("size", [3, 9])
def test_derivatives(size):
    """First and second derivatives, forward and reverse, against finite differences."""
    b = normal(2, 2, size, size)
    spread = lambda b: matmul(b, jnp.swapaxes(b, -1, -2)) + size * jnp.eye(size)
    check_grads(lambda b: cholesky(spread(b)), (b,), order=2, atol=1e-4, rtol=1e-4)
    check_grads(lambda b: triangular_inverse(b + 3 * size * jnp.eye(size)), (b,), order=2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [3, 9])
def test_gradients_equal_lapack(size):
    a, weights = positive(3, 2, size, size), normal(4, 2, size, size)
    ours = jax.grad(lambda a: jnp.sum(weights * cholesky(a)))(a)
    theirs = jax.grad(lambda a: jnp.sum(weights * jnp.linalg.cholesky(a)))(a)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_gradient_of_ldl_is_that_of_the_log_determinant():
    b = normal(5, 9, 9) + 5 * jnp.eye(9)
    gradient = jax.grad(lambda b: jnp.sum(jnp.log(ldl(b @ b.T).pivots)))(b)
    np.testing.assert_allclose(gradient, 2 * np.linalg.inv(b).T, atol=1e-11)


def test_only_the_lower_triangle_is_read():
    a = positive(6, 5, 5)
    poisoned = jnp.where(jnp.triu(jnp.ones((5, 5)), 1) > 0, jnp.nan, a)
    for ours, expected in zip(ldl(poisoned), ldl(a), strict=True):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(triangular_inverse(poisoned), triangular_inverse(jnp.tril(a)))


@pytest.mark.parametrize("size", [4, 12])
def test_singular(size):
    """Rank 2: two usable pivots, the others zero to rounding, their columns not used, the matrix still recovered."""
    b = normal(7, size, 2)
    factor = ldl(b @ b.T)
    assert factor.regular.tolist() == [True, True] + [False] * (size - 2)
    assert jnp.array_equal(factor.lower[:, 2:], jnp.eye(size)[:, 2:])
    np.testing.assert_allclose(factor.lower * factor.pivots @ factor.lower.T, b @ b.T, atol=1e-13)
    zero = ldl(jnp.zeros((size, size)))
    assert jnp.array_equal(zero.lower, jnp.eye(size)) and not zero.pivots.any() and not zero.regular.any()


@pytest.mark.parametrize("size", [2, 10])
def test_not_positive_definite_is_nan_for_that_matrix_alone(size):
    a = positive(8, 3, size, size)
    bad = a.at[1].set(-a[1])
    root = cholesky(bad)
    assert jnp.isnan(root[1]).any()
    np.testing.assert_array_equal(root[::2], cholesky(a)[::2])
    assert jnp.isnan(cholesky(jnp.full((2, 2), jnp.nan))).any()


@pytest.mark.parametrize("bad", [jnp.ones((2, 3)), jnp.ones(3), jnp.ones((2, 2), int)], ids=["flat", "vector", "int"])
def test_errors_name_what_was_seen(bad):
    for f, name in [(ldl, "a"), (cholesky, "a"), (triangular_inverse, "lower")]:
        with pytest.raises(ValueError, match=rf"{name}: got .*expected floating-point square"):
            f(bad)
