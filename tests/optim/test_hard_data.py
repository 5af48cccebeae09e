"""Data that break EM elsewhere: far from the origin, degenerate, too few, too wide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
import optim
from models import mixture
from models.families import MultivariateNormal, Normal

from ..problems import start


def fitted(ys, components, steps=30, family=None, weights=None, seed=0):
    params = mixture.init(jax.random.key(seed), ys, components, family=family, weights=weights)
    return optim.run(optim.em_step(mixture.model(components)), params, ys, steps=steps, weights=weights)


def healthy(result):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert np.asarray(result.history.finite).all() and np.isfinite(result.history.objective).all()
    # float32: a sum of N terms of size |L| is rounded by about ε |L|
    falls = -np.diff(np.asarray(result.history.objective, np.float64))
    assert (falls <= 1e-5 * np.maximum(1, np.abs(result.history.objective[1:]))).all()


def test_float32_survives_a_mean_of_ten_thousand_and_a_spread_of_one(key):
    which = jax.random.bernoulli(key, 0.5, (2000, 1))
    noise = jax.random.normal(jax.random.split(key)[0], (2000, 3))
    ys = 1e4 + 8.0 * which + noise
    result = fitted(ys, 2)
    healthy(result)
    covariance = np.asarray(result.params.theta.components.covariance(), np.float64)
    order = np.argsort(np.asarray(result.params.theta.components.mean[:, 0]))
    exact = np.asarray(ys, np.float64)
    for k, side in zip(order, (False, True), strict=True):
        truth = np.cov(exact[np.asarray(which[:, 0]) == side].T, bias=True)
        np.testing.assert_allclose(np.diag(covariance[k]), np.diag(truth), rtol=0.01)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "spherical"])
def test_two_hundred_dimensions_and_fewer_data(key, covariance_type):
    ys = jax.random.normal(key, (60, 200))
    result = fitted(ys, 2, steps=5, family=mixture.gaussian(ys, 2, covariance_type))
    healthy(result)


SHAPES = {
    "more components than distinct points": (jnp.tile(jnp.array([[0.0, 1.0], [5.0, 2.0]]), (10, 1)), 4),
    "one datum": (jnp.array([[3.0, 4.0]]), 2),
    "all data equal": (jnp.full((12, 2), 7.0), 2),
    "a constant column": (jnp.stack([jnp.arange(20.0) % 7, jnp.full(20, 5.0)], 1), 2),
    "two columns equal": (jnp.tile((jnp.arange(20.0) ** 2 % 11)[:, None], (1, 2)), 2),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("family", ["full", "tied", "spherical", "diagonal"])
def test_degenerate_data(name, family):
    ys, components = SHAPES[name]
    if family == "diagonal":
        like = mixture.gaussian(ys, components)
        prototype = Normal.create(like.mean, jnp.ones_like(like.mean), floor=1e-3)
    else:
        prototype = mixture.gaussian(ys, components, family)
    healthy(fitted(ys, components, family=prototype))


def test_an_empty_component_keeps_its_parameters_and_is_counted():
    model, params, ys = start("full")
    mean = params.theta.components.mean.at[1].set(1e6)  # no datum is within a thousand standard deviations
    components = MultivariateNormal.create(mean, jnp.tile(jnp.eye(2), (2, 1, 1)))
    theta = params.theta._replace(components=components)
    new, _, info = optim.em_step(model).update(None, elbo.Params(theta, theta), (), ys)
    assert int(info.empty) == 1 and bool(info.finite)
    np.testing.assert_array_equal(new.theta.components.mean[1], mean[1])
    np.testing.assert_array_equal(new.theta.components.root[1], components.root[1])
    np.testing.assert_allclose(new.theta.components.mean[0], ys.mean(0), rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 5, 8, 15, 16, 100])
def test_chunks_that_do_not_divide_the_data(x64, chunk_size):
    model, params, ys = start("full")
    weights = jnp.arange(1.0, 17)
    whole, chunked = (
        optim.expected_statistics(model, params, ys, weights=weights, chunk_size=c) for c in (None, chunk_size)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), chunked, whole)
    halves = [optim.expected_statistics(model, params, ys[s], weights=weights[s]) for s in (slice(6), slice(6, None))]
    total = jax.tree.map(jnp.add, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), total, whole)
