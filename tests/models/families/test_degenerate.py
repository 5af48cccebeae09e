"""Empty components, single points, copies, constant columns, more dimensions than data, float32 far from 0."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elbo.models.families import Bernoulli, LinearGaussian, Normal, PseudoScale
from elbo.numerics import IMPOSSIBLE

from .cases import (
    CASES,
    GAUSSIAN,
    PLAIN,
    D,
    covariance,
    create_full,
    estimate,
    log_probs,
    maximize,
    weighted_statistics,
)


def assert_valid(family, *data):
    for name, leaf in vars(family).items():
        if isinstance(leaf, jax.Array):
            assert jnp.isfinite(leaf).all(), name
    assert jnp.isfinite(log_probs(family, *data)).all()


@jax.jit
def em_step(family, *data):
    """EM for a mixture with equal weights; and its log likelihood before."""
    log_p = log_probs(family, *data)
    return estimate(family, jax.nn.softmax(log_p), *data), jnp.sum(jax.nn.logsumexp(log_p, -1))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_empty_component_keeps_its_parameters(x64, case):
    rng = np.random.default_rng(0)
    family, data = case.create(rng, (3,)), case.data(rng, 20)
    weights = rng.uniform(size=(20, 3)) * [1, 0, 1]
    statistics = weighted_statistics(family, weights, *data)
    new = maximize(family, statistics)
    assert family.empty(statistics).tolist() == [False, True, False]
    before, after, fit = (case.parameters(family), case.parameters(new), case.fit(weights + [0, 1, 0], *data))
    for name in before:
        if not (name == "covariance" and new.covariance_type == "tied"):
            np.testing.assert_allclose(after[name][1], before[name][1], rtol=1e-15)
            np.testing.assert_allclose(after[name][::2], fit[name][::2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_no_data_change_nothing(x64, case):
    rng = np.random.default_rng(0)
    family = case.create(rng, (3,))
    assert family.empty(family.zero_statistics()).all()
    new = maximize(family, family.zero_statistics())
    jax.tree.map(np.testing.assert_array_equal, new, family)
    assert family.log_likelihood(family.zero_statistics()) == 0


@pytest.mark.parametrize("name", GAUSSIAN)
def test_a_prior_on_the_scale_reaches_an_empty_component(x64, name):
    case, rng = CASES[name], np.random.default_rng(0)
    family, reference = case.create(rng, (3,)), case.create(rng, (3,))
    new = maximize(family, family.zero_statistics(), PseudoScale(reference, 2.0))
    before, after, prior = case.parameters(family), case.parameters(new), case.parameters(reference)
    for key in before:
        expected = prior if key in ("scale", "covariance") else before
        np.testing.assert_allclose(after[key], expected[key], rtol=1e-10)


@pytest.mark.parametrize("floor", [0.0, 1e-2])
@pytest.mark.parametrize("n", [1, 10])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_copies_of_one_datum(name, n, floor):
    """Without a floor the likelihood has no maximum; the scale must still not reach 0 in however many rounds."""
    case, rng = CASES[name], np.random.default_rng(0)
    family = replace(case.create(rng, ()), floor=jnp.asarray(floor, jnp.float32))
    data = [jnp.tile(jnp.asarray(a, jnp.float32), (n, 1)) for a in case.data(rng, 1)]
    new = estimate(family, jnp.ones(n), *data, rounds=30)
    assert_valid(new, *data)
    mean = new.mean(data[1][0]) if isinstance(new, LinearGaussian) else new.mean
    np.testing.assert_allclose(mean, data[0][0], rtol=1e-5, atol=1e-5)
    if floor:
        np.testing.assert_allclose(new.scale(), floor, rtol=5e-4)


@pytest.mark.parametrize("name", ["normal", "full", "tied", "spherical"])
@pytest.mark.parametrize("seed", range(3))
def test_more_components_than_points(name, seed):
    """Components collapse onto points (without a floor they may), and nothing leaves the numbers."""
    case, rng = CASES[name], np.random.default_rng(seed)
    x = jnp.repeat(jnp.asarray(rng.normal(size=(2, D)), jnp.float32), 10, 0)
    family, values = case.create(rng, (4,)), []
    for _ in range(40):
        family, value = em_step(family, x)
        values.append(float(value))
    assert_valid(family, x)
    assert values[-1] > values[0]


@pytest.mark.parametrize("name", sorted(set(PLAIN) - set(GAUSSIAN)))
def test_values_that_never_come(name):
    """One datum of a discrete family: probabilities 0 and 1, and again from there."""
    case, rng = CASES[name], np.random.default_rng(0)
    family, data, weights = case.create(rng, (2,)), case.data(rng, 1), np.ones((1, 2))
    new = estimate(family, weights, *data, rounds=3)
    for key, expected in case.fit(weights, *data).items():
        np.testing.assert_allclose(case.parameters(new)[key], expected, rtol=1e-6)
    assert_valid(new, *data)


def test_bits_that_are_always_one_have_probability_one_exactly():
    """Σ w − Σ w x need not be 0 in float32 where every x is 1."""
    rng = np.random.default_rng(0)
    x = jnp.ones((1000, D))
    f = estimate(Bernoulli(jnp.zeros((7, D))), jnp.asarray(rng.uniform(size=(1000, 7)), jnp.float32), x)
    assert (f.probabilities() == 1).all() and (log_probs(f, x) == 0).all()
    assert (f.logits >= -IMPOSSIBLE).all()


@pytest.mark.parametrize("name", ["normal", "full"])
def test_a_constant_column(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, D))
    x[:, 1] = 3.0
    x = jnp.asarray(x, jnp.float32)
    for floor in (0.0, 1e-3):
        family = replace(CASES[name].create(rng, ()), floor=jnp.asarray(floor, jnp.float32))
        new = estimate(family, jnp.ones(100), x, rounds=20)
        assert_valid(new, x)
        if floor:  # without, the likelihood has no maximum
            variance = np.diagonal(covariance(new)) if name == "full" else new.scale() ** 2
            np.testing.assert_allclose(variance, np.maximum(np.var(x, 0), floor**2), rtol=1e-3)


@pytest.mark.parametrize("name", ["regression", "regression-spherical"])
def test_constant_and_repeated_regressors(x64, name):
    """Columns that say nothing new keep their weights, and the fit is that without them."""
    case, rng = CASES[name], np.random.default_rng(0)
    y, x = case.data(rng, 30)
    x = np.column_stack([x, np.full(30, 2.0), x[:, 0], x @ [1.0, -2.0]])
    start = LinearGaussian.create(rng.normal(size=(D, 5)), np.zeros(D), np.ones(() if "sph" in name else D))
    new = estimate(start, np.ones(30), y, x)
    np.testing.assert_array_equal(new.weights[:, 2:], start.weights[:, 2:])
    predicted = jax.vmap(new.mean)(x)
    design = np.column_stack([np.ones(30), x])
    np.testing.assert_allclose(predicted, design @ np.linalg.lstsq(design, y)[0], rtol=1e-9, atol=1e-9)
    residual = np.mean((y - predicted) ** 2, 0)
    np.testing.assert_allclose(new.scale() ** 2, residual.mean() if "sph" in name else residual, rtol=1e-9)


def test_more_dimensions_than_data():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(50, 200)), jnp.float32)
    start = create_full(jnp.zeros(200), jnp.eye(200), floor=0.1)
    new = estimate(start, jnp.ones(50), x, rounds=3)
    assert_valid(new, x)
    scales = np.sqrt(np.linalg.eigvalsh(np.float64(covariance(new))))
    np.testing.assert_allclose(scales[:150], 0.1, rtol=1e-3)  # 50 data and their mean span 49 dimensions
    assert int(new.floored().sum()) == pytest.approx(151, abs=1)


FAR = 1e4
STARTS = {
    "normal": lambda mean: Normal.create(mean, jnp.ones(D)),
    "full": lambda mean: create_full(mean, jnp.eye(D)),
    "tied": lambda mean: create_full(mean, jnp.eye(D), covariance_type="tied"),
    "spherical": lambda mean: create_full(mean, jnp.ones(()), covariance_type="spherical"),
    "regression": lambda bias: LinearGaussian.create(jnp.zeros((D, 2)), bias, jnp.ones(D)),
    "regression-spherical": lambda bias: LinearGaussian.create(jnp.zeros((D, 2)), bias, jnp.ones(())),
}


@pytest.mark.parametrize(("start", "rounds"), [(0.0, 4), (FAR - 3.0, 1)])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_float32_far_from_the_origin(name, start, rounds):
    """Mean 1e4, spread about 1 (scikit-learn issue 30382), against float64."""
    case, rng = CASES[name], np.random.default_rng(0)
    y = FAR + rng.normal(size=(1000, D)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.2, 0.3], [0.0, 0.0, 0.8]])
    data = [np.float32(y)]
    if name.startswith("regression"):
        x = rng.normal(size=(1000, 2))
        data = [np.float32(y + x @ rng.normal(size=(2, D))), np.float32(x)]
    family = STARTS[name](jnp.full(D, start))
    found = case.parameters(estimate(family, jnp.ones(1000), *data, rounds=rounds))
    expected = case.fit(np.ones(1000), *(np.float64(a) for a in data))
    for key in expected:
        a, b = found[key], expected[key]
        if key in ("scale", "covariance"):
            np.testing.assert_allclose(a, b, rtol=0.01, atol=0.01 * (key == "covariance"), err_msg=key)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-3, err_msg=key)
