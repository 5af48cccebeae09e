"""The closed-form M step against estimates written by hand, with and without priors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from elbo.models.families import Bernoulli, Categorical, Normal, Poisson, PseudoData, PseudoScale

from .cases import (
    CASES,
    FIXED,
    GAUSSIAN,
    D,
    V,
    covariance,
    create_full,
    estimate,
    log_probs,
    maximize,
    numpy,
    weighted_statistics,
)

pytestmark = pytest.mark.usefixtures("x64")
PRIORS = [(name, None) for name in CASES] + [(name, PseudoData) for name in CASES]
PRIORS += [(name, PseudoScale) for name in GAUSSIAN]


def assert_fits(case, family, expected):
    for name, value in case.parameters(family).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_maximize_is_the_weighted_estimate_from_any_start(case, batch):
    rng = np.random.default_rng(0)
    data, weights = case.data(rng, 30), rng.uniform(size=(30, *batch))
    expected = case.fit(weights, *data)
    for _ in range(3):
        family = case.create(rng, batch)
        new = estimate(family, weights, *data)
        assert jax.tree.structure(new) == jax.tree.structure(family)
        assert_fits(case, new, expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pseudo_data_count_as_data(case):
    rng = np.random.default_rng(0)
    data, weights = case.data(rng, 30), rng.uniform(size=(30, 3))
    reference, count = case.create(rng, ()), 2.5
    imaginary, *points = case.sigma(reference)
    both = [np.concatenate(pair) for pair in zip(data, points, strict=True)]
    expected = case.fit(np.concatenate([weights, count * np.tile(imaginary[:, None], (1, 3))]), *both)
    family = case.create(rng, (3,))
    new = maximize(family, weighted_statistics(family, weights, *data), PseudoData(reference, count))
    assert_fits(case, new, expected)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_pseudo_scale_moves_the_scale_alone(name):
    case, rng = CASES[name], np.random.default_rng(0)
    data, weights = case.data(rng, 30), rng.uniform(size=(30, 3))
    reference, count = case.create(rng, (3,)), 2.5
    family = case.create(rng, (3,))
    new = maximize(family, weighted_statistics(family, weights, *data), PseudoScale(reference, count))
    expected, prior = case.fit(weights, *data), case.parameters(reference)
    total = weights.sum(0).reshape(3, 1)

    def mix(a, b, total):  # inverse-Wishart (or inverse-gamma) posterior mode
        return (total * a + count * b) / (total + count)

    if name == "tied":
        expected["covariance"] = mix(expected["covariance"], prior["covariance"], total.mean())
    elif "covariance" in expected:
        expected["covariance"] = mix(expected["covariance"], prior["covariance"], total[..., None])
    else:
        expected["scale"] = np.sqrt(mix(expected["scale"] ** 2, prior["scale"] ** 2, total))
    assert_fits(case, new, expected)


def test_pseudo_scale_refuses_a_family_without_one():
    f = Categorical.create(jnp.array([0.5, 0.5]))
    with pytest.raises(TypeError, match="^prior: .*Categorical.*PseudoData"):
        PseudoScale(f, 1.0).statistics(f)


@pytest.mark.parametrize(("name", "prior"), PRIORS)
def test_maximize_is_a_maximum(name, prior):
    """No direction leads up from it: gradient zero, and no random neighbour is better."""
    case, rng = CASES[name], np.random.default_rng(0)
    data, weights = case.data(rng, 30), rng.uniform(size=(30, 3))
    start = case.create(rng, (3,))
    prior = prior and prior(case.create(rng, (3,) if prior is PseudoScale else ()), 1.5)

    @jax.jit
    @jax.value_and_grad
    def objective(family):
        return jnp.sum(weights * log_probs(family, *data)) + (prior.log_prob(family) if prior else 0)

    best = maximize(start, weighted_statistics(start, weights, *data), prior)
    free = [k for k, v in vars(best).items() if isinstance(v, jax.Array) and k not in FIXED]

    def moved(*values):
        return replace(best, **dict(zip(free, values, strict=True)))

    (top, gradient), values = objective(best), [getattr(best, k) for k in free]
    for name in free:
        np.testing.assert_allclose(getattr(gradient, name), 0, atol=1e-9 * abs(top), err_msg=name)
    assert objective(start)[0] < top

    @given(st.integers(0, 2**32 - 1), st.sampled_from([1e-4, 1e-2, 1.0]))
    def neighbours_are_no_better(seed, size):
        rng = np.random.default_rng(seed)
        neighbour = moved(*(v + size * rng.normal(size=v.shape) for v in values))
        assert objective(neighbour)[0] <= top + 1e-12 * abs(top)

    neighbours_are_no_better()


log_prior = jax.jit(lambda prior, family: prior.log_prob(family))


def wishart(f, degrees, scale, mean=None, count=0.0):
    """ln of the normal-inverse-Wishart density; of the inverse-Wishart alone without a mean."""
    square = numpy(covariance(f))
    value = scipy.stats.invwishart(degrees, scale).logpdf(square)
    if mean is None:
        return value
    return value + scipy.stats.multivariate_normal(mean, square / count).logpdf(numpy(f.mean))


def test_priors_are_the_textbook_densities():
    """ln prior, up to a constant, by scipy."""
    rng = np.random.default_rng(0)
    r, c = rng.dirichlet(np.ones(V)), 7.5
    p, rate = rng.uniform(size=D), rng.uniform(1, 5, D)
    mean, root = rng.normal(size=D), rng.normal(size=(D, D))
    square = root @ root.T + np.eye(D)
    gaussian = create_full(mean, square)

    def dirichlet(f):
        return scipy.stats.dirichlet(1 + c * r).logpdf(numpy(f.probabilities()))

    def beta(f):
        return scipy.stats.beta(1 + c * p, 1 + c * (1 - p)).logpdf(numpy(f.probabilities())).sum()

    def gamma(f):
        return scipy.stats.gamma(1 + c * rate, scale=1 / c).logpdf(numpy(f.rate())).sum()

    densities = [
        ("categorical", PseudoData(Categorical.create(r), c), dirichlet),
        ("bernoulli", PseudoData(Bernoulli.create(p), c), beta),
        ("poisson", PseudoData(Poisson.create(rate), c), gamma),
        ("full", PseudoScale(gaussian, c), lambda f: wishart(f, c - D - 1, c * square)),
        # the normal's own factor |Σ|^-½ takes one of the counts
        ("full", PseudoData(gaussian, c), lambda f: wishart(f, c - D - 2, c * square, mean, c)),
    ]
    for name, prior, log_density in densities:
        one, other = CASES[name].create(rng, ()), CASES[name].create(rng, ())
        difference = log_prior(prior, one) - log_prior(prior, other)
        np.testing.assert_allclose(difference, log_density(one) - log_density(other), rtol=1e-9, err_msg=str(prior))


def test_posterior_modes_in_closed_form():
    rng = np.random.default_rng(0)
    (x,), n, c = CASES["full"].data(rng, 20), 20, 4.0
    mean, square = rng.normal(size=D), np.diag(rng.uniform(1, 2, D))
    centre, scatter = x.mean(0), n * np.cov(x.T, bias=True)
    new_mean = (n * centre + c * mean) / (n + c)
    shift = np.outer(centre - mean, centre - mean) * n * c / (n + c)
    new_covariance = (scatter + shift + c * square) / (n + c)

    f = create_full(np.zeros(D), np.eye(D))
    prior = PseudoData(create_full(mean, square), c)
    f = maximize(f, weighted_statistics(f, np.ones(n), x), prior)
    np.testing.assert_allclose(f.mean, new_mean, rtol=1e-10)
    np.testing.assert_allclose(covariance(f), new_covariance, rtol=1e-10)

    g = Normal.create(np.zeros(D), np.ones(D))
    prior = PseudoData(Normal.create(mean, np.sqrt(np.diag(square))), c)
    g = maximize(g, weighted_statistics(g, np.ones(n), x), prior)
    np.testing.assert_allclose(g.scale() ** 2, np.diag(new_covariance), rtol=1e-10)
