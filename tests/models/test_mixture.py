"""Mixtures: where they start, what they draw, restarts by vmap."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Bernoulli, Categorical, MultivariateNormal, Normal, Poisson
from elbo.models.kmeans import kmeans

CENTRES = jnp.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])


def three_clouds(key, count=300):
    which = jax.random.randint(key, (count,), 0, 3)
    return CENTRES[which] + jax.random.normal(jax.random.split(key)[0], (count, 2)), which


def matched(means):
    """Centres found, in the order of CENTRES."""
    return means[jnp.argmin(jnp.sum((means[None] - CENTRES[:, None]) ** 2, -1), 1)]


def test_kmeans_finds_separated_clusters_and_ignores_nan(key):
    ys, which = three_clouds(key)
    clean = kmeans(key, ys, 3)
    np.testing.assert_allclose(matched(clean.centres), CENTRES, atol=0.3)
    junk = kmeans(key, ys.at[:30].set(jnp.nan), 3)
    assert np.isfinite(junk.centres).all()
    np.testing.assert_allclose(matched(junk.centres), CENTRES, atol=0.3)
    labels = np.asarray(clean.assignments)
    assert all(len(set(labels[np.asarray(which) == k])) == 1 for k in range(3))
    with pytest.raises(ValueError, match="xs: got"):
        kmeans(key, ys[:, 0], 3)


def test_kmeans_of_fewer_points_than_clusters_is_finite(key):
    found = kmeans(key, jnp.tile(jnp.array([[1.0, 2.0]]), (5, 1)), 3)
    np.testing.assert_allclose(found.centres, jnp.tile(jnp.array([[1.0, 2.0]]), (3, 1)))


def test_init_and_em_recover_the_mixture_and_nan_changes_nothing(key):
    ys, _ = three_clouds(key)
    rule = optim.em_step(mixture.model(3))
    for data in (ys, ys.at[5].set(jnp.nan)):
        params = mixture.init(key, data, 3)
        result = optim.run(rule, params, data, steps=50)
        np.testing.assert_allclose(matched(result.params.theta.components.mean), CENTRES, atol=0.3)
        np.testing.assert_allclose(result.params.theta.weights.probabilities().sum(), 1, rtol=1e-5)


def test_restarts_by_vmap_equal_one_by_one(key):
    ys, _ = three_clouds(key)
    keys = jax.random.split(key, 8)
    together = jax.vmap(lambda k: mixture.init(k, ys, 3))(keys)
    for i in (0, 3, 7):
        alone = mixture.init(keys[i], ys, 3)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4), together, alone)
    assert len({tuple(np.asarray(m).round(3).ravel().tolist()) for m in together.theta.components.mean}) > 1


@pytest.mark.parametrize("kind", ["categorical", "bernoulli", "poisson"])
def test_discrete_components_are_recovered(kind, key):
    truth = {
        "categorical": Categorical.create(jnp.array([[0.9, 0.05, 0.05, 0.0], [0.0, 0.0, 0.1, 0.9]])),
        "bernoulli": Bernoulli.create(jnp.array([[0.9] * 8, [0.1] * 8])),
        "poisson": Poisson.create(jnp.array([[1.0, 9.0], [9.0, 1.0]])),
    }[kind]
    theta = mixture.Theta(Categorical.create(jnp.array([0.5, 0.5])), truth)
    _, ys = jax.jit(lambda key: mixture.sample(key, theta, 800))(key)
    ys = ys.astype(jnp.int32 if kind == "categorical" else jnp.float32)
    prototype = jax.tree.map(jnp.zeros_like, truth)
    params = mixture.init(key, ys, 2, family=prototype)
    result = optim.run(optim.em_step(mixture.model(2)), params, ys, steps=60)
    evidence = elbo.evidence(mixture.model(2))
    reached = float(evidence(result.params, ys).mean())
    true = float(evidence(elbo.Params.tied(theta), ys).mean())
    assert reached >= true - 1e-3  # maximum likelihood is at least the truth
    assert reached >= float(evidence(params, ys).mean()) - 1e-6


def test_samples_have_the_moments_of_the_model(key):
    covariance = jnp.array([[[1.0, 0.5], [0.5, 2.0]], [[0.3, 0.0], [0.0, 0.1]]])
    theta = mixture.Theta(Categorical.create(jnp.array([0.3, 0.7])), MultivariateNormal.create(CENTRES[:2], covariance))
    z, ys = jax.device_get(jax.jit(lambda key: mixture.sample(key, theta, 20_000))(key))
    assert abs(float(z.mean()) - 0.7) < 5 * (0.21 / 20_000) ** 0.5
    for k in (0, 1):
        part = np.asarray(ys[z == k], np.float64)
        error = 5 / len(part) ** 0.5
        np.testing.assert_allclose(part.mean(0), CENTRES[k], atol=error * 1.5)
        np.testing.assert_allclose(np.cov(part.T), covariance[k], atol=error * 3)


def test_wrong_data_are_refused(key):
    with pytest.raises(ValueError, match="ys: got"):
        mixture.init(key, jnp.arange(5), 2)
    with pytest.raises(ValueError, match="covariance_type: got 'round'"):
        mixture.gaussian(jnp.zeros((3, 2)), 2, "round")


@pytest.mark.parametrize("junk", [1e6, jnp.nan])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_a_start_does_not_look_at_data_of_weight_zero(kind, junk, key):
    if kind == "gaussian":
        ys, family = three_clouds(key)[0], None
        other = ys.at[:20].set(junk)
    else:
        ys, family = jax.random.randint(key, (60,), 0, 4), Categorical(jnp.zeros((3, 5)))
        other = ys.at[:20].set(4)
    weights = jnp.ones(len(ys)).at[:20].set(0)
    one, two = (mixture.init(key, y, 3, family=family, weights=weights) for y in (ys, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_start_has_the_type_of_its_data_or_family_under_x64(x64, key):
    for dtype in (jnp.float32, jnp.float64):
        ys = jax.random.normal(key, (30, 2), dtype)
        letters, family = jax.random.randint(key, (30,), 0, 4), Categorical(jnp.zeros((2, 4), dtype))
        init = partial(jax.eval_shape, partial(mixture.init, components=2))
        for params in (init(key, ys), init(key, letters, family=family)):
            assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


def test_a_component_too_narrow_to_be_squared_drops_no_datum():
    # float32: ((1 - 0) / 1e-20)² overflows; 0 · (−inf) would make the datum's bound NaN
    components = Normal.create(jnp.zeros((2, 1)), jnp.array([[1.0], [1e-20]]))
    theta = mixture.Theta(Categorical(jnp.zeros(2)), components)
    model, params, ys = mixture.model(2), elbo.Params.tied(theta), jnp.ones((3, 1))
    np.testing.assert_allclose(elbo.evidence(model)(params, ys), np.log(0.5) - 0.5 - 0.5 * np.log(2 * np.pi), rtol=1e-6)
    new, _, info = optim.em_step(model).update(None, params, (), ys)
    assert int(info.dropped) == 0 and np.isfinite(info.elbo)
    np.testing.assert_allclose(new.theta.components.mean[0], 1.0)
    np.testing.assert_array_equal(new.theta.components.mean[1], 0.0)
