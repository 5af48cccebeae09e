from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import elbo
from elbo import LOG_ZERO, StructureError
from elbo.posteriors import BernoulliPosterior, CategoricalPosterior

from .problems import normal, within


def values_of(q) -> np.ndarray:
    """Every value of z, [S, *shape], by itertools."""
    shape = q.logits.shape
    if isinstance(q, BernoulliPosterior):
        return np.array(list(product([0.0, 1.0], repeat=q.logits.size))).reshape(-1, *shape)
    rows = product(np.eye(shape[-1]), repeat=q.logits.size // shape[-1])
    return np.array([np.reshape(r, shape) for r in rows])


POSTERIORS = {
    "categorical": lambda: CategoricalPosterior(2 * normal(0, 4)),
    "one value": lambda: CategoricalPosterior(normal(1, 1)),
    "group": lambda: CategoricalPosterior(2 * normal(2, 3, 2)),
    "grid": lambda: CategoricalPosterior(2 * normal(3, 2, 2, 3)),
    "bits": lambda: BernoulliPosterior(2 * normal(4, 5)),
    "grid of bits": lambda: BernoulliPosterior(2 * normal(5, 2, 2)),
}


@pytest.fixture(params=POSTERIORS)
def q(request, x64):
    return POSTERIORS[request.param]()


@jax.jit
def everything(q, key):
    gradient = jax.grad(lambda logits: type(q)(logits).log_partition())(q.logits)
    return {
        "log_partition": q.log_partition(),
        "gradient": gradient,
        "mean": q.mean(),
        "mode": q.mode(),
        "entropy": q.entropy(),
        "samples": jax.vmap(q.sample)(jax.random.split(key, 4000)),
    }


def test_equals_enumeration(q, key):
    values = values_of(q)
    scores = (values * q.logits).reshape(len(values), -1).sum(1)
    log_z = np.log(np.exp(scores).sum())
    p = np.exp(scores - log_z)
    seen = everything(q, key)
    np.testing.assert_allclose(seen["log_partition"], log_z, rtol=1e-13)
    mean = np.tensordot(p, values, 1)
    np.testing.assert_allclose(seen["mean"], mean, atol=1e-14)
    np.testing.assert_allclose(seen["gradient"], mean, atol=1e-14)
    np.testing.assert_allclose(seen["entropy"], -p @ np.log(p), atol=1e-13)
    np.testing.assert_array_equal(seen["mode"], values[p.argmax()])
    np.testing.assert_allclose(jnp.exp(jax.vmap(q.log_prob)(jnp.asarray(values))), p, rtol=1e-12)
    # samples are values of z, at their frequencies
    indicator = (np.asarray(seen["samples"])[:, None] == values).all(tuple(range(2, values.ndim + 1)))
    assert (indicator.sum(1) == 1).all()
    assert np.all(np.abs(indicator.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / 4000))


def test_support(q):
    values = values_of(q)
    if q.logits.ndim > 1:
        with pytest.raises(StructureError, match="logits: got"):
            q.support()
    else:
        assert sorted(q.support().tolist()) == sorted(values.tolist())


def test_support_of_many_bits_is_refused():
    with pytest.raises(StructureError, match="at most 16 bits"):
        BernoulliPosterior(jnp.zeros(17)).support()


@pytest.mark.parametrize("make", [CategoricalPosterior, BernoulliPosterior])
def test_dtype_follows_the_logits(make, x64, key):
    for dtype in (jnp.float32, jnp.float64):
        seen = jax.eval_shape(everything, make(jnp.ones(3, dtype)), key)
        assert {a.dtype for a in seen.values()} == {jnp.dtype(dtype)}
        assert jax.eval_shape(make(jnp.ones(3, dtype)).log_prob, jnp.ones(3, dtype)).dtype == dtype


@pytest.mark.parametrize("make", [CategoricalPosterior, BernoulliPosterior])
def test_float32_is_accurate(make, key):
    logits = np.asarray(5 * normal(6, 3), np.float32)
    small = everything(make(jnp.asarray(logits)), key)
    with jax.enable_x64(True):
        large = everything(make(jnp.asarray(logits, jnp.float64)), key)
    for name in ("log_partition", "mean", "entropy"):
        np.testing.assert_allclose(small[name], large[name], rtol=2e-6, atol=1e-7)


@jax.jit
def numbers(q, key):
    q_of = type(q)

    def scalars(logits):
        q = q_of(logits)
        f = lambda z: jnp.sum(z * jnp.clip(logits, LOG_ZERO, 1e3))
        energies = [estimator(f, q, None) for estimator in (elbo.ClosedForm(), elbo.Enumerated())]
        return jnp.stack([q.log_partition(), q.entropy(), q.log_prob(q.mode()), jnp.max(q.mean()), *energies])

    return scalars(q.logits), jax.jacrev(scalars)(q.logits), q.mean(), q.mode(), q.sample(key)


LOGITS = st.sampled_from([0.0, -3.0, 4.0, -60.0, 200.0, LOG_ZERO, -np.inf])


@given(st.sampled_from([CategoricalPosterior, BernoulliPosterior]), st.lists(LOGITS, min_size=3, max_size=3))
@example(CategoricalPosterior, [-np.inf] * 3)
@example(CategoricalPosterior, [LOG_ZERO] * 3)
@example(BernoulliPosterior, [-np.inf] * 3)
@example(BernoulliPosterior, [np.inf] * 3)
def test_no_nan_for_impossible_values(key, make, logits):
    """Neither in values nor in gradients, whatever stands for ln 0; all-impossible logits are infeasible."""
    logits = jnp.asarray(logits)
    values, slopes, mean, mode, sample = numbers(make(logits), key)
    assert not any(jnp.isnan(a).any() for a in (values, slopes, mean, mode, sample))
    if make is CategoricalPosterior:
        possible = any(x > -1e3 for x in logits.tolist())
        np.testing.assert_allclose(mean.sum(), possible, rtol=1e-6)
        assert {bool(elbo.numerics.is_feasible(a)) for a in values[:3]} == {
            possible
        }  # ln Z, the entropy, ln P of the mode
        assert mode.sum() == sample.sum() == possible
        if elbo.numerics.is_feasible(values[0]):
            assert not ((mean > 0) & (logits < -1e3)).any()
            assert float((sample * logits.clip(LOG_ZERO)).sum()) > -1e3  # an impossible value is never drawn


def test_nan_logits_stay_nan(key):
    for make in (CategoricalPosterior, BernoulliPosterior):
        values, _, *points = numbers(make(jnp.array([jnp.nan, 0.0, 1.0])), key)
        assert jnp.isnan(values[0]) and all(jnp.isnan(point).any() for point in points)  # mean, mode, sample


def test_under_vmap_equals_one_by_one(key):
    logits = normal(7, 6, 3)
    keys = jax.random.split(key, 6)
    for make in (CategoricalPosterior, BernoulliPosterior):
        together = jax.vmap(everything)(make(logits), keys)
        for i in range(2):
            alone = everything(make(logits[i]), keys[i])
            for name, value in alone.items():
                np.testing.assert_allclose(together[name][i], value, rtol=1e-6)


def test_sampled_gradients_are_not_offered():
    assert not CategoricalPosterior.reparameterized and not BernoulliPosterior.reparameterized


@pytest.mark.parametrize("shape", [(), (0,), (3, -1)])
def test_structure_needs_positive_sizes(shape):
    with pytest.raises(ValueError, match="expected positive sizes"):
        elbo.categorical(*shape)


def test_sampling_of_a_group_is_independent(key):
    q = CategoricalPosterior(jnp.zeros((2, 2)))
    z = jax.vmap(q.sample)(jax.random.split(key, 4000))
    assert within(z[:, 0, 0] * z[:, 1, 0], 0.25)
