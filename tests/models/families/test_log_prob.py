"""Densities, draws, and what a wrong argument says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from elbo import LOG_ZERO
from elbo._polynomial import degree
from elbo.extend import is_family
from elbo.models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson
from elbo.numerics import is_feasible

from .cases import CASES, PLAIN, D, P, V, draw, log_probs, weighted_statistics

BATCHES = [(), (3,), (2, 3)]


@jax.jit
def draws(family, key):
    return jax.vmap(lambda k: draw(family, k))(jax.random.split(key, 4000))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_log_prob_is_that_of_scipy(x64, case, batch):
    rng = np.random.default_rng(0)
    family, data = case.create(rng, batch), case.data(rng, 12)
    assert is_family(family) and family.batch_shape == batch
    values = np.asarray(log_probs(family, *data))
    assert values.shape == (12, *batch)
    for i in np.ndindex(batch):
        np.testing.assert_allclose(
            values[(slice(None), *i)], case.log_density(family, i, *data), rtol=1e-12, atol=1e-11
        )


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_draws_have_the_expected_statistics(x64, key, case):
    family = case.create(np.random.default_rng(1), ())
    data = draws(family, key)

    @jax.jit
    @jax.vmap
    def statistics(*datum):
        return weighted_statistics(family, jnp.ones(1), *(a[None] for a in datum))

    def check(t, expected):
        error = 5 * t.std(0) / np.sqrt(len(t)) + 1e-12
        np.testing.assert_array_less(abs(t.mean(0) - expected), np.broadcast_to(error, expected.shape))

    jax.tree.map(check, statistics(*data), jax.jit(family.statistics_of)(family))


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_draws_of_a_batch_come_from_their_own_components(x64, key, case):
    family = case.create(np.random.default_rng(2), (2, 3))
    x, expected = np.asarray(draws(family, key)[0]), case.expectation(family)
    assert x.shape[1:] == expected.shape
    np.testing.assert_array_less(abs(x.mean(0) - expected), 5 * x.std(0) / np.sqrt(len(x)) + 1e-12)


def test_probabilities_zero_and_one_are_exact():
    f = Bernoulli.create(jnp.array([0.0, 1.0, 0.25]))
    assert f.log_prob(jnp.array([0.0, 1.0, 1.0])) == jnp.log(0.25)
    assert not is_feasible(f.log_prob(jnp.array([1.0, 1.0, 1.0])))
    assert not is_feasible(f.log_prob(jnp.array([0.0, 0.0, 1.0])))
    assert not is_feasible(f.log_prob(jnp.array([0.0, 0.5, 1.0])))
    assert f.sample(jax.random.key(0))[:2].tolist() == [0.0, 1.0]
    assert jax.tree.all(jax.tree.map(lambda g: jnp.isfinite(g).all(), jax.grad(lambda f: f.log_prob(jnp.ones(3)))(f)))


def test_impossible_counts():
    f = Poisson.create(jnp.array([[0.0, 2.0], [1.0, 2.0]]))
    assert f.log_prob(jnp.array([0.0, 0.0])).tolist() == pytest.approx([-2.0, -3.0])
    assert is_feasible(f.log_prob(jnp.array([1.0, 0.0]))).tolist() == [False, True]
    for x in ([-1.0, 0.0], [0.5, 0.0], [0.0, 1.0000001]):
        assert f.log_prob(jnp.array(x)).tolist() == [jnp.float32(LOG_ZERO)] * 2
    assert f.sample(jax.random.key(0))[0, 0] == 0


@pytest.mark.parametrize("rate", [1e-3, 3.0, 20.0, 1e3, 1e6])
def test_counts_of_any_size_keep_their_digits_in_float32(rate):
    # x ln rate is 1e7 and the answer 1e1: the plain formula is wrong by 1 here
    rates = rate * np.array([[0.9], [1.0], [1.1]])
    f = Poisson.create(jnp.asarray(rates, jnp.float32))
    x = np.unique(np.round(rate + np.sqrt(rate) * np.arange(-4, 5)).clip(0))
    expected = scipy.stats.poisson.logpmf(x, np.exp(np.float64(f.log_rate)))
    # 1e6 counts are known to 0.06 here; what that does to the answer depends on how the compiler contracts products
    np.testing.assert_allclose(log_probs(f, jnp.asarray(x[:, None], jnp.float32)), expected.T, rtol=5e-5, atol=1e-5)


def test_integers_outside_a_categorical_are_impossible():
    f = Categorical.create(jnp.array([0.5, 0.5]))
    values = jax.jit(jax.vmap(f.log_prob))(jnp.array([-1, 0, 2]))
    assert is_feasible(values).tolist() == [False, True, False]
    assert weighted_statistics(f, jnp.ones(3), jnp.array([-1, 0, 2])).tolist() == [1.0, 0.0]


def test_regression_is_quadratic_in_a_latent_x_and_in_y():
    f = CASES["regression"].create(np.random.default_rng(0), ())
    y, x = jnp.ones(D), jnp.ones(P)
    assert degree(lambda x: f.log_prob(y, x), x) == 2
    assert degree(lambda y: f.log_prob(y, x), y) == 2
    assert degree(lambda z: MultivariateNormal.create(x, jnp.eye(P)).log_prob(z), x) == 2
    assert degree(lambda z: Normal.create(x, x).log_prob(z), x) == 2
    assert degree(lambda z: Bernoulli.create(x / 2).log_prob(z), x) == 1


def test_regression_on_nothing_is_a_normal(x64):
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=(2, D)), rng.uniform(0.5, 2, (2, D))
    f = LinearGaussian.create(np.zeros((2, D, 0)), mean, scale)
    x = rng.normal(size=D)
    np.testing.assert_allclose(f.log_prob(x, np.zeros(0)), Normal.create(mean, scale).log_prob(x), rtol=1e-12)


ones = jnp.ones
regression = LinearGaussian.create(ones((D, P)), ones(D), ones(D))
WRONG = {
    "categorical shape": ("x", lambda: Categorical.create(ones(V)).log_prob(ones(V + 1))),
    "categorical batch": ("x", lambda: Categorical.create(ones(V)).log_prob(jnp.arange(2))),
    "bernoulli shape": ("x", lambda: Bernoulli.create(ones(D)).log_prob(ones((5, D)))),
    "bernoulli integers": ("x", lambda: Bernoulli.create(ones(D)).log_prob(ones(D, int))),
    "poisson integers": ("x", lambda: Poisson.create(ones(D)).log_prob(ones(D, int))),
    "poisson scalar": ("x", lambda: Poisson.create(ones(D)).log_prob(1.0)),
    "normal shape": ("x", lambda: Normal.create(ones(D), ones(D)).log_prob(ones(D + 1))),
    "full shape": ("x", lambda: MultivariateNormal.create(ones(D), jnp.eye(D)).log_prob(ones((1, D)))),
    "regression y": ("y", lambda: regression.log_prob(ones(P), ones(P))),
    "regression x": ("x", lambda: regression.log_prob(ones(D), ones(D))),
    "poisson offset": ("offset", lambda: Poisson.create(ones(D)).log_prob(ones(D), ones(D + 1))),
    "normal weight": ("weight", lambda: Normal.create(ones(D), ones(D)).log_prob(ones(D), ones(D))),
    "full weight": ("weight", lambda: MultivariateNormal.create(ones(D), jnp.eye(D)).log_prob(ones(D), 2)),
    "regression weight": ("weight", lambda: regression.log_prob(ones(D), ones(P), ones(1))),
    "regression mean": ("x", lambda: regression.mean(ones(D))),
    "create bernoulli": ("probabilities", lambda: Bernoulli.create(0.5)),
    "create poisson": ("rate", lambda: Poisson.create([1, 2])),
    "create normal": ("scale", lambda: Normal.create(ones((2, D)), ones(D))),
    "create normal integers": ("mean", lambda: Normal.create([0, 1], [1.0, 1.0])),
    "create full": ("covariance", lambda: MultivariateNormal.create(ones(D), jnp.eye(2))),
    "create full integers": ("mean", lambda: MultivariateNormal.create([0, 1], jnp.eye(2))),
    "create full type": (
        "covariance_type",
        lambda: MultivariateNormal.create(ones(D), jnp.eye(D), covariance_type="diagonal"),
    ),
    "create regression weights": ("weights", lambda: LinearGaussian.create(ones(D), ones(D), ones(D))),
    "create regression bias": ("bias", lambda: LinearGaussian.create(ones((D, P)), ones(P), ones(D))),
    "create regression scale": ("scale", lambda: LinearGaussian.create(ones((D, P)), ones(D), ones(P))),
    "create regression centre": (
        "centre",
        lambda: LinearGaussian.create(ones((D, P)), ones(D), ones(D), centre=ones(D)),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_argument(name):
    argument, call = WRONG[name]
    with pytest.raises(ValueError, match=f"^{argument}: got .*expected"):
        call()
