"""Information criteria against scikit-learn, and free parameters counted by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from elbo import Params, evidence
from models import criteria, mixture
from models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson

K, D, P = 3, 4, 2
COVARIANCES = {"full": jnp.tile(jnp.eye(D), (K, 1, 1)), "tied": jnp.eye(D), "spherical": jnp.ones(K)}
BY_HAND = {
    "bernoulli": (Bernoulli.create(jnp.full((K, D), 0.5)), K * D),
    "categorical": (Categorical.create(jnp.full((K, D), 1 / D)), K * (D - 1)),
    "categorical with zeros": (Categorical.create(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])), 1),
    "poisson": (Poisson.create(jnp.ones((K, D))), K * D),
    "normal": (Normal.create(jnp.zeros((K, D)), jnp.ones((K, D))), 2 * K * D),
    "regression": (
        LinearGaussian.create(jnp.zeros((K, D, P)), jnp.zeros((K, D)), jnp.ones((K, D))),
        K * (D * P + 2 * D),
    ),
    "network": ({"w": jnp.zeros((2, 5))}, 10),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_free_parameters(name):
    theta, expected = BY_HAND[name]
    assert criteria.free_parameters(theta) == expected


@pytest.mark.parametrize("kind", COVARIANCES)
def test_scikit_learn_agrees(kind, x64):
    ys = np.random.default_rng(0).normal(size=(60, D))
    theirs = GaussianMixture(K, covariance_type=kind, random_state=0, max_iter=5, tol=0).fit(ys)
    components = MultivariateNormal.create(
        jnp.asarray(theirs.means_), jnp.asarray(theirs.covariances_), covariance_type=kind
    )
    theta = mixture.Theta(Categorical.create(jnp.asarray(theirs.weights_)), components)
    total = float(evidence(mixture.model(K))(Params(theta, theta), jnp.asarray(ys)).sum())
    count = criteria.free_parameters(theta)
    np.testing.assert_allclose(criteria.aic(total, count), theirs.aic(ys), rtol=1e-9)
    np.testing.assert_allclose(criteria.bic(total, count, 60), theirs.bic(ys), rtol=1e-9)
