import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbo
from elbo.posteriors import MultivariateNormalPosterior, NormalPosterior

from .problems import normal, within

SIZE = 3


def diagonal():
    return NormalPosterior(normal(0, SIZE), 0.5 * normal(1, SIZE))


def full():
    return MultivariateNormalPosterior(
        normal(2, SIZE), jnp.tril(normal(3, SIZE, SIZE), -1) + jnp.diag(jnp.exp(normal(4, SIZE)))
    )


def moments(q) -> tuple[np.ndarray, np.ndarray]:
    scale = np.diag(np.exp(q.log_scale)) if isinstance(q, NormalPosterior) else np.asarray(q.scale_tril)
    return np.asarray(q.loc), scale @ scale.T


QUADRATICS = {
    "separable": lambda z: jnp.sum(jnp.arange(1.0, 4.0) * z**2 - z) + 1,
    "form": lambda z: z @ jnp.tri(SIZE, dtype=z.dtype) @ z,
    "affine": lambda z: 2 * z[0] - 1,
}


@pytest.fixture(params=[diagonal, full])
def q(request, x64):
    return request.param()


def test_equals_scipy(q, key):
    loc, covariance = moments(q)
    truth = scipy.stats.multivariate_normal(loc, covariance)
    z = normal(5, 4, SIZE)
    np.testing.assert_allclose(jax.jit(jax.vmap(q.log_prob))(z), truth.logpdf(z), rtol=1e-11)
    np.testing.assert_allclose(q.entropy(), truth.entropy(), rtol=1e-12)
    np.testing.assert_array_equal(q.mean(), loc)
    np.testing.assert_array_equal(q.mode(), loc)
    samples = jax.jit(jax.vmap(q.sample))(jax.random.split(key, 4000))
    assert within(samples, loc)
    centred = samples - loc
    assert within(centred[:, :, None] * centred[:, None, :], covariance)


@pytest.mark.parametrize("f", QUADRATICS.values(), ids=QUADRATICS)
def test_expect_quadratic(q, f, key):
    """E f = f(0) + g·m + ½ tr H (Σ + m mᵀ), and the average over samples; its gradient too."""
    loc, covariance = moments(q)
    gradient, hessian = jax.jit(lambda z: (jax.grad(f)(z), jax.hessian(f)(z)))(jnp.zeros(SIZE))
    closed = f(jnp.zeros(SIZE)) + gradient @ loc + 0.5 * np.sum(hessian * (covariance + np.outer(loc, loc)))
    value, slope = jax.jit(jax.value_and_grad(lambda q: q.expect_quadratic(f)))(q)
    np.testing.assert_allclose(value, closed, rtol=1e-12)
    keys = jax.random.split(key, 4000)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda q, k: f(q.sample(k))), (None, 0)))(q, keys)
    assert within(values, value)
    assert all(jax.tree.leaves(jax.tree.map(within, slopes, slope)))


def test_under_vmap(key, x64):
    qs = [NormalPosterior(normal(i, SIZE), normal(i + 9, SIZE)) for i in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *qs)

    def f(q):
        return q.entropy(), q.log_prob(jnp.ones(SIZE)), q.expect_quadratic(QUADRATICS["form"]), q.sample(key)

    for i, q in enumerate(qs):
        for together, alone in zip(jax.jit(jax.vmap(f))(stacked), jax.jit(f)(q), strict=True):
            np.testing.assert_allclose(together[i], alone, rtol=1e-12)


@pytest.mark.parametrize("make", [diagonal, full])
def test_dtype_and_accuracy_of_float32(make, x64, key):
    large = make()
    small = jax.tree.map(lambda a: a.astype(jnp.float32), large)

    @jax.jit
    def f(q):
        return q.entropy(), q.log_prob(q.mean() + 1), q.mean(), q.mode(), q.expect_quadratic(QUADRATICS["form"])

    for low, high in zip(f(small), f(large), strict=True):
        assert low.dtype == jnp.float32 and high.dtype == jnp.float64
        np.testing.assert_allclose(low, high, rtol=2e-5)
    assert small.sample(key).dtype == jnp.float32


def test_gradients_of_both_agree(x64):
    """A MultivariateNormalPosterior with a diagonal factor is a NormalPosterior."""

    def scalars(q):
        return jnp.stack([q.entropy(), q.log_prob(jnp.ones(SIZE)), q.expect_quadratic(QUADRATICS["form"])])

    def as_full(loc, log_scale):
        return scalars(MultivariateNormalPosterior(loc, jnp.diag(jnp.exp(log_scale))))

    arguments = normal(6, SIZE), normal(7, SIZE)
    ours = jax.jit(jax.jacrev(as_full, (0, 1)))(*arguments)
    theirs = jax.jit(jax.jacrev(lambda *a: scalars(NormalPosterior(*a)), (0, 1)))(*arguments)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_kl_equals_the_closed_form(x64):
    q, p = diagonal(), full()
    (m, s), (n, t) = moments(q), moments(p)
    inverse = np.linalg.inv(t)
    expected = 0.5 * (
        np.trace(inverse @ s) + (n - m) @ inverse @ (n - m) - SIZE + np.log(np.linalg.det(t) / np.linalg.det(s))
    )
    as_full = MultivariateNormalPosterior(q.loc, jnp.diag(jnp.exp(q.log_scale)))
    seen = jax.jit(lambda: (elbo.kl(q, p), elbo.kl(as_full, p), elbo.kl(p, p)))()
    np.testing.assert_allclose(seen, (expected, expected, 0), rtol=1e-11, atol=1e-13)
