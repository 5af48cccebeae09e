"""Statistics read through taps, and the likelihood written with them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo.models.families import Categorical, LinearGaussian, Normal
from elbo.optim._e_step import expected_statistics

from .cases import CASES, PLAIN, log_probs, numpy, weighted_statistics, wsum

pytestmark = pytest.mark.usefixtures("x64")


def assert_same(statistics, expected):
    for t, e in zip(jax.tree.leaves(statistics), expected, strict=True):
        assert t.shape == e.shape
        np.testing.assert_allclose(t, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_taps_give_the_sums_written_by_hand(case, batch):
    rng = np.random.default_rng(0)
    family, data, weights = case.create(rng, batch), case.data(rng, 20), rng.uniform(size=(20, *batch))
    statistics = weighted_statistics(family, weights, *data)
    assert_same(statistics, case.statistics(family, weights, *data))
    assert jax.tree.structure(statistics) == jax.tree.structure(family.zero_statistics())
    assert family.empty(statistics).shape == batch and not family.empty(statistics).any()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_expected_statistics_of_a_mixture(case):
    """The whole way: the exact posterior of a mixture of the family, weighted data, chunks that do not divide N."""
    rng = np.random.default_rng(0)
    family, data, weights = case.create(rng, (3,)), case.data(rng, 17), rng.uniform(size=17)
    theta = (Categorical.create(np.array([0.2, 0.3, 0.5])), family)

    def log_joint(theta, z, y):
        return theta[0].log_prob(z) + z @ theta[1].log_prob(*y)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(3)))
    summarize = jax.jit(partial(expected_statistics, model, chunk_size=5))
    found = summarize(elbo.Params.tied(theta), data, weights=weights)
    log_p = np.log([0.2, 0.3, 0.5]) + np.stack([case.log_density(family, (k,), *data) for k in range(3)], -1)
    p = np.exp(log_p)
    responsibilities = weights[:, None] * p / p.sum(-1, keepdims=True)
    assert_same(found.families[0], [responsibilities.sum(0)])
    assert_same(found.families[1], case.statistics(family, responsibilities, *data))
    np.testing.assert_allclose(found.elbo, weights @ np.log(p.sum(-1)), rtol=1e-10)


def test_expected_statistics_of_a_latent_regressor():
    """Factor analysis: E x̃x̃ᵀ and E x̃rᵀ have the posterior covariance of x in them."""
    rng = np.random.default_rng(0)
    f = CASES["regression"].create(rng, ())
    prior = Normal.create(jnp.zeros(2), jnp.ones(2))
    ys = rng.normal(size=(9, 3))

    def log_joint(theta, z, y):
        return prior.log_prob(z) + theta.log_prob(y, z)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.gaussian(2)))
    found = jax.jit(partial(expected_statistics, model))(elbo.Params.tied(f), ys).families

    w, scale, centre = numpy(f.weights), numpy(f.scale()), numpy(f.centre)
    covariance = np.linalg.inv(np.eye(2) + w.T @ np.diag(scale**-2) @ w)
    x = (ys - numpy(f.bias) + w @ centre) @ np.diag(scale**-2) @ w @ covariance
    # points with the posterior's mean and covariance stand for it: T is quadratic in x
    offsets = np.sqrt(2) * np.linalg.cholesky(covariance).T
    points = np.concatenate([x + o for o in (*offsets, *-offsets)])
    expected = CASES["regression"].statistics(f, np.full(4 * len(ys), 0.25), np.tile(ys, (4, 1)), points)
    assert_same(found, expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_log_likelihood_reads_the_statistics(case):
    rng = np.random.default_rng(0)
    family, data, weights = case.create(rng, (2, 3)), case.data(rng, 20), rng.uniform(size=(20, 2, 3))
    value = family.log_likelihood(weighted_statistics(family, weights, *data))
    expected = np.sum(weights * log_probs(family, *data)) - np.sum(weights.sum((1, 2)) * case.carrier(*data))
    np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_statistics_of_is_the_expectation(case):
    """In the family's coordinates, for a reference shared by the batch and for one per component."""
    rng = np.random.default_rng(0)
    family, shared, own = case.create(rng, (3,)), case.create(rng, ()), case.create(rng, (3,))
    if isinstance(shared, LinearGaussian):
        shared = LinearGaussian(shared.weights, shared.bias, shared.log_scale, jnp.array([2.0, 0.0]), shared.floor)
    weights, *data = case.sigma(shared)
    expected = case.statistics(family, np.tile(weights[:, None], (1, 3)), *data)
    assert_same(jax.jit(family.statistics_of)(shared), expected)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(family.statistics_of, own))
    assert shapes == jax.tree.map(jnp.shape, family.zero_statistics())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_statistics_change_their_coordinates_and_are_drawn_anew(case):
    rng = np.random.default_rng(0)
    old, new = case.create(rng, (3,)), case.create(rng, (3,))
    if isinstance(new, LinearGaussian):
        new = LinearGaussian(new.weights, new.bias, new.log_scale, new.centre + jnp.array([2.0, 0.0]), new.floor)
    if hasattr(new, "floor"):  # of some scales it is the floor that measures
        new = replace(new, floor=jnp.ones_like(new.floor))
    data, weights = case.data(rng, 20), rng.uniform(size=(20, 3))
    measured = [weighted_statistics(f, weights, *data) for f in (old, new)]
    rebase = jax.jit(lambda f, statistics, old: f.rebase(statistics, old))
    assert_same(rebase(new, measured[0], old), jax.tree.leaves(measured[1]))
    # as many data, at the same inputs, drawn from the estimate have the statistics that it is the estimate of
    fitted = jax.jit(lambda f, statistics: f.maximize(statistics))(old, measured[0])
    own = rebase(fitted, measured[0], old)
    assert_same(jax.jit(lambda f, statistics: f.expected(statistics))(fitted, own), jax.tree.leaves(own))


def test_wsum():
    w, x = np.array([1.0, 2.0]), np.array([[1.0, 0.0], [1.0, 3.0]])
    np.testing.assert_array_equal(wsum(w, x, x), [[3.0, 6.0], [6.0, 18.0]])
