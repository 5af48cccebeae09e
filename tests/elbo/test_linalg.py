from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbo.linalg import cholesky, ldl, matmul, triangular_inverse, triangularize

from .problems import normal

pytestmark = pytest.mark.usefixtures("x64")
# 1, 2, 7: unrolled loops; 9, 40, 200: rolled
SHAPES = [(1, 1), (2, 2), (3, 7, 7), (2, 3, 9, 9), (200, 200)]


def positive(seed: int, *shape: int) -> jax.Array:
    """Positive definite matrices with a condition number below 10 or so."""
    b = normal(seed, *shape)
    return matmul(b, jnp.swapaxes(b, -1, -2)) / shape[-1] + jnp.eye(shape[-1])


@jax.jit
def factorise(a):
    root = cholesky(a)
    return ldl(a), root, triangular_inverse(root)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_factorisations_equal_numpy(shape):
    a = positive(0, *shape)
    factor, root, inverse = jax.tree.map(np.asarray, factorise(a))
    # well-conditioned: errors of a few times the size times 2e-16
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    close(root, np.linalg.cholesky(a))
    close(factor.lower * factor.pivots[..., None, :] @ np.swapaxes(factor.lower, -1, -2), a)
    close(np.triu(factor.lower), np.broadcast_to(np.eye(shape[-1]), shape))
    assert factor.regular.all()
    close(inverse, np.linalg.inv(np.linalg.cholesky(a)))


def test_float32_is_backward_stable():
    a = positive(1, 40, 40).astype(jnp.float32)
    _, root, _ = factorise(a)
    assert root.dtype == jnp.float32
    assert jnp.abs(matmul(root, root.T) - a).max() < 40 * jnp.finfo(jnp.float32).eps * jnp.abs(a).max()


@given(st.sampled_from([3, 10]), st.integers(0, 2**32 - 1), st.integers(-8, 8))
def test_any_scale(size, seed, exponent):
    a = positive(seed, size, size) * 10.0**exponent
    np.testing.assert_allclose(factorise(a)[1], np.linalg.cholesky(a), rtol=0, atol=1e-12 * 10.0 ** (exponent / 2))


@pytest.mark.parametrize("size", [3, 9])
def test_derivatives(size):
    """First derivatives against LAPACK's, second ones against finite differences."""
    weights, x, dx = normal(2, 2, size, size), normal(3, size, size), normal(4, size, size)

    def scalar(factor, invert):
        def f(x):
            root = factor(x @ x.T + size * jnp.eye(size))
            return jnp.sum(weights[0] * root) + jnp.sum(weights[1] * invert(root))

        return f

    ours, theirs = scalar(cholesky, triangular_inverse), scalar(jnp.linalg.cholesky, jnp.linalg.inv)
    gradient = jax.jit(jax.grad(ours))
    np.testing.assert_allclose(gradient(x), jax.jit(jax.grad(theirs))(x), rtol=1e-10, atol=1e-12)
    forward, second = jax.jit(lambda x: (jax.jvp(ours, (x,), (dx,))[1], jax.jvp(jax.grad(ours), (x,), (dx,))[1]))(x)
    np.testing.assert_allclose(forward, jnp.vdot(gradient(x), dx), rtol=1e-10)
    # central differences: errors of order h² and 1e-16 / h
    h = 1e-5
    differences = (gradient(x + h * dx) - gradient(x - h * dx)) / (2 * h)
    np.testing.assert_allclose(second, differences, atol=1e-7)


def test_gradient_of_ldl_is_that_of_the_log_determinant():
    b = normal(5, 9, 9) + 5 * jnp.eye(9)
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(jnp.log(ldl(b @ b.T).pivots))))(b)
    np.testing.assert_allclose(gradient, 2 * np.linalg.inv(b).T, atol=1e-11)


def test_only_the_lower_triangle_is_read():
    a = positive(6, 5, 5)
    poisoned = jnp.where(jnp.triu(jnp.ones((5, 5)), 1) > 0, jnp.nan, a)
    for ours, expected in zip(jax.tree.leaves(factorise(poisoned)), jax.tree.leaves(factorise(a)), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("size", [4, 12])
def test_singular(size):
    """Rank 2: two usable pivots, the others zero to rounding, their columns not used, the matrix still recovered."""
    b = jnp.concatenate([jnp.eye(2), normal(7, size - 2, 2)])  # nearly dependent first rows would amplify rounding
    factor = factorise(b @ b.T)[0]
    assert factor.regular.tolist() == [True, True] + [False] * (size - 2)
    np.testing.assert_array_equal(factor.lower[:, 2:], jnp.eye(size)[:, 2:])
    np.testing.assert_allclose(factor.lower * factor.pivots @ factor.lower.T, b @ b.T, atol=1e-13)
    zero = factorise(jnp.zeros((size, size)))[0]
    assert jnp.array_equal(zero.lower, jnp.eye(size)) and not zero.pivots.any() and not zero.regular.any()


@pytest.mark.parametrize("size", [2, 10])
def test_not_positive_definite_is_nan_for_that_matrix_alone(size):
    a = positive(8, 3, size, size)
    root = factorise(a.at[1].set(-a[1]))[1]
    assert jnp.isnan(root[1]).any()
    np.testing.assert_array_equal(root[::2], factorise(a)[1][::2])


@pytest.mark.parametrize("bad", [jnp.ones((2, 3)), jnp.ones(3), jnp.ones((2, 2), int)], ids=["flat", "vector", "int"])
def test_errors_name_what_was_seen(bad):
    for f, name in [(ldl, "a"), (cholesky, "a"), (triangular_inverse, "lower")]:
        with pytest.raises(ValueError, match=rf"{name}: got .*expected floating-point square"):
            f(bad)


ROWS = [(3, 3), (5, 2), (9, 4), (1, 1)]


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_a_triangle_has_the_squares_of_its_rows(shape, x64):
    a, b = normal(0, 4, *shape), normal(1, 4, shape[0])
    triangles = jax.jit(triangularize)(a, b)
    for a, b, r, c, rest in zip(a, b, *triangles, strict=True):  # noqa: B020 - one of each
        assert np.all(np.tril(r, -1) == 0) and np.all(np.diagonal(r) >= 0)
        np.testing.assert_allclose(r, np.abs(np.linalg.qr(a)[1]) * np.sign(r), rtol=1e-12)
        np.testing.assert_allclose(r.T @ c, a.T @ b, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(rest @ rest, np.linalg.norm(b - a @ np.linalg.lstsq(a, b)[0]) ** 2, atol=1e-12)
        assert int(np.sum(np.asarray(rest) == 0)) >= shape[1]


def test_rows_of_any_size_keep_their_digits():
    """Products aᵀ a of these in float32 would lose what the small rows say."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 6, 3)) * 10.0 ** rng.integers(-9, 9, (200, 6, 1))
    b = rng.normal(size=(200, 6)) * np.max(np.abs(a), -1)
    a, b = a.astype(np.float32), b.astype(np.float32)
    r, c, _ = jax.jit(triangularize)(a, b)
    with jax.enable_x64(True):
        exact, told, _ = jax.jit(triangularize)(a.astype(np.float64), b.astype(np.float64))
    unit = np.max(np.abs(exact), -1)  # of a row of the triangle
    for got, right, size in ((r, exact, unit[..., None]), (c, told, unit)):
        wrong = np.abs(np.asarray(got) - right) / size  # rows as good as dependent, some of 200, lose three digits
        assert np.median(wrong) < 1e-7 and np.quantile(wrong, 0.95) < 1e-5 and np.max(wrong) < 1e-3


def test_a_triangle_of_fewer_ranks_has_zeros_and_finite_derivatives(x64):
    a = jnp.array([[1.0, 2.0, 3.0], [2.0, 4.0, 1.0], [3.0, 6.0, 2.0], [0.0, 0.0, 0.0]])
    b = jnp.array([1.0, 2.0, 5.0, 4.0])
    r, c, _ = triangularize(a, b)
    np.testing.assert_allclose(r.T @ r, a.T @ a, atol=1e-12)
    np.testing.assert_allclose(r.T @ c, a.T @ b, atol=1e-12)
    for zeros in (a, jnp.zeros_like(a)):
        slopes = jax.grad(
            lambda a, b: jnp.sum(jnp.hstack([triangularize(a, b)[0].sum(), triangularize(a, b)[1]])), (0, 1)
        )
        assert all(np.isfinite(s).all() for s in slopes(zeros, b))


def test_the_triangle_has_the_derivatives_of_the_squares(x64):
    a, b = normal(2, 5, 3), normal(3, 5)
    weight = normal(4, 3, 3)

    def turned(a, b):
        r, c, rest = triangularize(a, b)
        return jnp.sum(weight * (r.T @ r)) + jnp.sum(r.T @ c) + jnp.sum(c**2) + jnp.sum(rest**2)

    def squares(a, b):
        return jnp.sum(weight * (a.T @ a)) + jnp.sum(a.T @ b) + jnp.sum(b**2)

    for ours, theirs in zip(jax.grad(turned, (0, 1))(a, b), jax.grad(squares, (0, 1))(a, b), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
