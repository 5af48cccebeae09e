"""Categorical variables and bits beside what `test_structures.py` says of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import elbo
from elbo import LOG_ZERO, StructureError
from elbo.posteriors import BernoulliPosterior, CategoricalPosterior

from .problems import within
from .structures import TABLE


@pytest.mark.parametrize("name", ["categorical", "group", "bits", "grid of bits"])
def test_support(x64, name):
    row = TABLE[name]()
    q = row.make(0, *row.sizes[0])
    if q.logits.ndim > 1:
        with pytest.raises(StructureError, match="logits: got"):
            q.support()
    else:
        assert sorted(q.support().tolist()) == sorted(row.values(q).z[0].tolist())


def test_support_of_many_bits_is_refused():
    with pytest.raises(StructureError, match="at most 16 bits"):
        BernoulliPosterior(jnp.zeros(17)).support()


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


def test_sampled_gradients_are_not_offered():
    assert not CategoricalPosterior.reparameterized and not BernoulliPosterior.reparameterized


@pytest.mark.parametrize("shape", [(), (0,), (3, -1)])
def test_structure_needs_positive_sizes(shape):
    with pytest.raises(ValueError, match="expected positive whole numbers"):
        elbo.categorical(*shape)


def test_sampling_of_a_group_is_independent(key):
    q = CategoricalPosterior(jnp.zeros((2, 2)))
    z = jax.vmap(q.sample)(jax.random.split(key, 4000))
    assert within(z[:, 0, 0] * z[:, 1, 0], 0.25)
