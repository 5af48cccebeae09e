"""Part of an EM step: averages of moments by hand, the whole step at rate 1, a rise at any rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
import optim
from models import mixture
from models.families import Categorical, MultivariateNormal, Normal

pytestmark = pytest.mark.usefixtures("x64")


def problem(family):
    ys = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[0.0, 0], [3, 1]], 20, 0))
    mean = jnp.array([[0.5, 0.0], [1.0, 1.0]])
    components = {
        "diagonal": Normal.create(mean, jnp.ones((2, 2))),
        "full": MultivariateNormal.create(mean, jnp.tile(jnp.eye(2), (2, 1, 1))),
    }[family]
    theta = mixture.Theta(Categorical.create(jnp.array([0.4, 0.6])), components)
    return mixture.model(2), elbo.Params(theta, theta), ys


def step(model, params, ys, rate):
    rule = optim.damp(model, optim.em_step(model), rate)
    return rule.update(None, params, rule.init(params), ys)[0]


def moments(theta):
    mean = theta.components.mean
    square = theta.components.scale() ** 2 if isinstance(theta.components, Normal) else theta.components.covariance()
    outer = mean**2 if square.ndim == 2 else mean[:, :, None] * mean[:, None]
    return theta.weights.probabilities(), mean, square + outer


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_moments_are_averaged(family):
    model, params, ys = problem(family)
    whole, part = step(model, params, ys, 1.0), step(model, params, ys, 0.3)
    old, new, got = (moments(p.theta) for p in (params, whole, part))
    for a, b, c in zip(old, new, got, strict=True):
        np.testing.assert_allclose(c, 0.7 * a + 0.3 * b, rtol=1e-10, atol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, part.psi, part.theta)


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_evidence_rises_to_where_em_goes(rate):
    model, params, ys = problem("diagonal")
    rule = optim.damp(model, optim.em_step(model), rate)
    run = optim.run(rule, params, ys, steps=60)
    assert (np.diff(run.history.elbo) > -1e-12).all()
    if rate > 0.1:
        whole = optim.run(optim.em_step(model), params, ys, steps=60)
        np.testing.assert_allclose(run.history.elbo[-1], whole.history.elbo[-1], atol=1e-3)


@pytest.mark.parametrize("rate", [0.0, 1.5, float("nan")])
def test_a_wrong_rate_is_refused(rate):
    model, _, _ = problem("diagonal")
    with pytest.raises(ValueError, match="rate: got"):
        optim.damp(model, optim.em_step(model), rate)
