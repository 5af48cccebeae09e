"""Data that break textbook EM: far from the origin, in too many dimensions, degenerate, too few, in several chunks."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis, mixture
from elbo.models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson

from ..problems import PROBLEMS, SMALL, random_weights, start

COMPONENTS = {
    "full": lambda ys, k: mixture.gaussian(ys, k),
    "tied": lambda ys, k: mixture.gaussian(ys, k, "tied"),
    "spherical": lambda ys, k: mixture.gaussian(ys, k, "spherical"),
    "normal": lambda ys, k: Normal.create(np.tile(ys.mean(0), (k, 1)), np.tile(ys.std(0) + 1e-3, (k, 1)), floor=1e-3),
}


@cache  # one rule for each K, so that data of one shape share one program
def em(components):
    return optim.em_step(mixture.model(components))


def fit(ys, family, components, steps=30):
    params = mixture.init(jax.random.key(0), ys, components, family=family)
    return optim.run(em(components), params, ys, steps=steps)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def variances(f):
    return f.scale() ** 2 if isinstance(f, Normal) else jnp.diagonal(f.covariance(), axis1=-2, axis2=-1)


@pytest.mark.parametrize("name", COMPONENTS)
def test_float32_far_from_the_origin(name, mean=1e4):
    """Mean 1e4 and spread 1 in float32: E[x²] − mean² would have no digit left (scikit-learn issue 30382)."""
    rng = np.random.default_rng(0)
    n = 4000
    far = np.where(np.arange(n) < n // 2, 0, 20)[:, None]
    noise = rng.normal(size=(n, 3))
    ys = jnp.asarray(mean + far + noise, jnp.float32)
    result = fit(ys, COMPONENTS[name](ys, 2), 2)
    assert finite(result.params)
    f = result.params.theta.components
    order = np.argsort(f.mean[:, 0])
    exact = np.asarray(ys, np.float64)
    halves = [exact[: n // 2], exact[n // 2 :]]
    # the clusters are 20 deviations apart: the truth is their own moments, to 1%
    np.testing.assert_allclose(f.mean[order], [h.mean(0) for h in halves], atol=1e-2)
    truth = np.stack([h.var(0) for h in halves])
    truth = {"tied": np.mean(truth, 0), "spherical": np.tile(truth.mean(1)[:, None], 3)}.get(name, truth)
    got = variances(f)
    np.testing.assert_allclose(got if name == "tied" else got[order], truth, rtol=1e-2)


def test_float32_regression_and_factors_far_from_the_origin():
    rng = np.random.default_rng(1)
    z, loadings = rng.normal(size=(3000, 1)), np.array([[2.0], [-1.0], [0.5], [1.0]])
    ys = jnp.asarray(1e4 + z @ loadings.T + 0.5 * rng.normal(size=(3000, 4)), jnp.float32)
    params = factor_analysis.init(jax.random.key(0), ys, 1)
    result = optim.run(optim.em_step(factor_analysis.model(1)), params, ys, steps=200)
    f = result.params.theta.observation
    covariance = f.weights @ f.weights.T + jnp.diag(f.scale() ** 2)
    np.testing.assert_allclose(covariance, np.cov(np.asarray(ys, np.float64).T, bias=True), atol=0.05)
    np.testing.assert_allclose(np.diag(covariance), np.asarray(ys, np.float64).var(0), rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPONENTS)
def test_many_dimensions(name):
    """Differences of thousands of nats between components, fewer data in each than dimensions."""
    # where floors bind a whole covariance its singular values are found, in O(D³) with a large factor
    size, steps = (200, 8) if name in ("normal", "spherical") else (60, 2)
    rng = np.random.default_rng(2)
    which = np.arange(60) % 3
    ys = jnp.asarray(3 * rng.normal(size=(3, size))[which] + rng.normal(size=(60, size)), jnp.float32)
    result = fit(ys, COMPONENTS[name](ys, 3), 3, steps=steps)
    healthy(result)
    np.testing.assert_allclose(result.params.theta.weights.probabilities(), np.full(3, 1 / 3), atol=1e-3)
    if name in ("normal", "spherical"):  # 20 data: 1 − 1/20 of the variance, to 2 / √(20 · 200) of it
        np.testing.assert_allclose(variances(result.params.theta.components).mean(1), np.full(3, 0.95), atol=0.06)


DEGENERATE = {
    "fewer distinct points than components": np.repeat([[0.0, 1.0], [3.0, 4.0]], 10, 0),
    "one point, many times": np.full((20, 2), 7.0),
    "one datum": np.array([[1.0, 2.0]]),
    "a constant column": np.column_stack([np.random.default_rng(3).normal(size=20), np.full(20, 5.0)]),
    "a repeated column": np.repeat(np.random.default_rng(4).normal(size=(20, 1)), 2, 1),
    "duplicates": np.repeat(np.random.default_rng(5).normal(size=(4, 2)), 5, 0),
    "huge and tiny units": np.random.default_rng(6).normal(size=(20, 2)) * [1e12, 1e-12],
}


def healthy(result):
    history = result.history
    assert finite(result.params) and bool(history.finite.all() & history.feasible.all())
    assert np.isfinite(history.elbo).all()
    # float32; where a scale lies at its floor, a thousandth of the spread, digits of the data are lost
    assert (np.diff(history.elbo) / np.maximum(1, np.abs(history.elbo[1:]))).min() >= -1e-4


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("data", DEGENERATE)
def test_degenerate_data(name, data):
    ys = jnp.asarray(DEGENERATE[data], jnp.float32)
    healthy(fit(ys, COMPONENTS[name](ys, 4), 4, steps=30))


@pytest.mark.parametrize("name", PROBLEMS)
def test_one_datum_and_no_weight_at_all(name):
    model, params, ys = start(name)
    rule = optim.em_step(model)
    alone = jnp.zeros(SMALL.data).at[3].set(1)
    new, _, info = rule.update(None, params, (), ys, weights=alone)
    assert finite(new) and bool(info.finite) and int(info.dropped) == 0 and np.isfinite(info.elbo)
    same, _, info = rule.update(None, params, (), ys, weights=jnp.zeros(SMALL.data))
    jax.tree.map(np.testing.assert_array_equal, same.theta, params.theta)
    assert bool(info.finite) and bool(info.feasible) and np.isnan(info.elbo)


FAR = {
    "full": lambda d: MultivariateNormal.create(jnp.array([[0.0] * d, [1e6] * d]), jnp.tile(jnp.eye(d), (2, 1, 1))),
    "tied": lambda d: MultivariateNormal.create(jnp.array([[0.0] * d, [1e6] * d]), jnp.eye(d), covariance_type="tied"),
    "spherical": lambda d: MultivariateNormal.create(
        jnp.array([[0.0] * d, [1e6] * d]), jnp.ones(2), covariance_type="spherical"
    ),
    "normal": lambda d: Normal.create(jnp.array([[0.0] * d, [1e6] * d]), jnp.ones((2, d))),
    "poisson": lambda d: Poisson(jnp.array([[0.0] * d, [12.0] * d])),
    "bernoulli": lambda d: Bernoulli(jnp.array([[0.0] * d, [-1e30] * d])),
    "categorical": lambda d: Categorical.create(jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])),
}


@pytest.mark.parametrize("name", FAR)
def test_an_empty_component_keeps_its_parameters_and_says_so(name):
    """All data belong to the first component; the second one is so far away that its posterior is exactly 0."""
    ys = {"categorical": jnp.array([0, 1, 1, 0, 1]), "poisson": jnp.arange(10.0).reshape(5, 2)}.get(
        name, jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    )
    theta = mixture.Theta(Categorical(jnp.zeros(2)), FAR[name](2))
    new, _, info = optim.em_step(mixture.model(2)).update(None, elbo.Params.tied(theta), (), ys)
    assert int(info.empty) == 1 and bool(info.finite) and bool(info.feasible)

    def second(tree):
        return [leaf[1] for leaf in jax.tree.leaves(tree) if leaf.ndim > 0 and leaf.shape[0] == 2]

    after, before = new.theta.components, theta.components
    if name != "tied":  # the covariance is everybody's
        jax.tree.map(np.testing.assert_array_equal, second(after), second(before))
    else:
        np.testing.assert_array_equal(after.mean[1], before.mean[1])
    np.testing.assert_array_equal(new.theta.weights.probabilities(), [1.0, 0.0])


def test_an_empty_regression_keeps_its_parameters(x64):
    model, params, ys = start("regression")
    f = params.theta.components
    lost = LinearGaussian(f.weights, f.bias.at[1].set(1e8), f.log_scale, f.centre, f.floor)
    theta = params.theta._replace(components=lost)
    new, _, info = optim.em_step(model).update(None, elbo.Params.tied(theta), (), ys)
    assert int(info.empty) == 1
    for field in ("weights", "bias", "log_scale"):
        np.testing.assert_array_equal(getattr(new.theta.components, field)[1], getattr(lost, field)[1])


@pytest.mark.parametrize("name", PROBLEMS)
def test_chunks_that_do_not_divide_the_data(name, x64):
    model, params, ys = start(name)
    weights = jnp.asarray(random_weights(np.random.default_rng(0), SMALL.data))

    @jax.jit
    def statistics(params, ys):
        each = lambda size: optim.expected_statistics(model, params, ys, weights=weights, chunk_size=size)
        return each(5), each(None)  # 16 = 3 * 5 + 1

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * float(np.abs(b).max())),
        *statistics(params, ys),
    )
