"""Types, transforms, gradient steps and what the families compile to."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elbo.models.families import LinearGaussian, PseudoData, PseudoScale
from elbo.models.families._estimate import weighted_statistics as sum_statistics

from .cases import (
    CASES,
    FIXED,
    GAUSSIAN,
    PLAIN,
    cast,
    covariance,
    draw,
    estimate,
    log_probs,
    maximize,
    weighted_statistics,
)


def example(case, batch=(3,), dtype=jnp.float64, n=20):
    rng = np.random.default_rng(0)
    family, data, weights = case.create(rng, batch), case.data(rng, n), rng.uniform(size=(n, *batch))
    return cast((family, data, weights), dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_what_goes_in_comes_out(x64, name, dtype):
    def everything(family, data, weights, key):
        prior = PseudoData(family, 2.0)
        statistics = weighted_statistics(family, weights, *data)
        yield log_probs(family, *data), statistics, family.zero_statistics(), draw(family, key)
        yield maximize(family, statistics, prior), family.log_likelihood(statistics), prior.log_prob(family)
        if name in GAUSSIAN:
            yield maximize(family, statistics, PseudoScale(family, 2.0))

    results = jax.eval_shape(
        lambda *args: list(everything(*args)), *example(CASES[name], dtype=dtype), jax.random.key(0)
    )
    dtypes = {a.dtype for a in jax.tree.leaves(results) if not jnp.issubdtype(a.dtype, jnp.integer)}
    assert dtypes == {jnp.dtype(dtype)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32_agrees_with_float64(x64, case):
    (f32, d32, w32), (f64, d64, w64) = (example(case, dtype=dtype) for dtype in (jnp.float32, jnp.float64))
    np.testing.assert_allclose(log_probs(f32, *d32), log_probs(f64, *d64), rtol=2e-5, atol=2e-5)
    new32 = estimate(f32, w32, *d32)
    new64 = estimate(f64, w64, *d64)
    for a, b in zip(jax.tree.leaves(new32), jax.tree.leaves(new64), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_jit_vmap_and_grad(x64, case):
    """A vmapped stack of families is the loop over them; gradients are finite differences."""
    families = [example(case)[0], case.create(np.random.default_rng(1), (3,))]
    _, data, weights = example(case)

    def m_step(family):
        return estimate(family, weights, *data)

    stacked = jax.jit(jax.vmap(m_step))(jax.tree.map(lambda *a: np.stack(a), *families))
    loop = jax.tree.map(lambda *a: np.stack(a), *map(m_step, families))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), stacked, loop)

    @jax.jit
    @jax.value_and_grad
    def objective(family):
        return jnp.sum(weights * log_probs(family, *data))

    family, rng = families[0], np.random.default_rng(2)
    free = [k for k, v in vars(family).items() if isinstance(v, jax.Array) and k not in FIXED]
    step = {k: jnp.asarray(rng.normal(size=getattr(family, k).shape)) for k in free}
    gradient = objective(family)[1]
    slope = sum(jnp.sum(getattr(gradient, k) * step[k]) for k in free)

    def along(h):
        return objective(replace(family, **{k: getattr(family, k) + h * step[k] for k in free}))[0]

    np.testing.assert_allclose((along(1e-6) - along(-1e-6)) / 2e-6, slope, rtol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_gradient_steps_stay_valid(name):
    """However long the steps: finite, a positive definite covariance, and floor and centre where they were."""
    family, data, _ = example(CASES[name], dtype=jnp.float32)
    if name in GAUSSIAN:
        family = replace(family, floor=jnp.float32(0.1))

    @jax.jit
    def loss(family):
        return -jnp.mean(log_probs(family, *data))

    optimizer = optax.adam(0.3)

    def step(_, carry):
        updates, state = optimizer.update(jax.grad(loss)(carry[0]), carry[1])
        return optax.apply_updates(carry[0], updates), state

    start = family
    new, _ = jax.jit(lambda family: jax.lax.fori_loop(0, 20, step, (family, optimizer.init(family))))(family)
    assert jnp.isfinite(log_probs(new, *data)).all()
    assert loss(new) < loss(start)
    if hasattr(new, "covariance"):
        assert (np.linalg.eigvalsh(np.float64(covariance(new))) > 0).all()
    if name in GAUSSIAN:
        assert new.floor == start.floor
    if isinstance(new, LinearGaussian):
        np.testing.assert_array_equal(new.centre, start.centre)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(estimate(new, jnp.ones((20, 3)), *data)))


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_no_lapack(case):
    """Two independent batched LAPACK calls in one program deadlock in jaxlib 0.10 on the CPU."""
    family, data, weights = example(case, dtype=jnp.float32)

    def em(family):
        value, gradient = jax.value_and_grad(lambda f: jnp.sum(log_probs(f, *data)))(family)
        new = estimate(family, weights, *data)
        return value, gradient, new, family.statistics_of(family), draw(family, jax.random.key(0))

    assert not any("lapack" in target for target in custom_calls(em, family))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK is the CPU's")
def test_lapack_would_be_seen():
    assert any("lapack" in target for target in custom_calls(jnp.linalg.cholesky, jnp.eye(3)))


def test_statistics_are_matrix_products():
    """The regression's moments over N data are products of matrices, not N small ones summed."""
    family, data, weights = example(CASES["regression"], batch=(), dtype=jnp.float32, n=37)
    shapes = jax.make_jaxpr(lambda f: sum_statistics(f, weights, *data))(family).eqns
    largest = max(np.prod(v.aval.shape) for eqn in shapes for v in eqn.outvars)
    assert largest <= 37 * max(family.event_size, family.input_size + 1)


def custom_calls(f, *args):
    """Targets of the custom calls in the compiled program."""
    return re.findall(r'custom_call_target="([^"]*)"', jax.jit(f).lower(*args).compile().as_text().lower())
