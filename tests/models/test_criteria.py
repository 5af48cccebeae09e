"""Information criteria against scikit-learn; free parameters by hand, and as the rank of what they can change."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import elbo
from elbo import Params, evidence, optim
from elbo.models import criteria, factor_analysis, hmm, hmm_vae, linear_gaussian_chain, mixture, pcfg
from elbo.models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson

K, D, P = 3, 4, 2
COVARIANCES = {"full": jnp.tile(jnp.eye(D), (K, 1, 1)), "tied": jnp.eye(D), "spherical": jnp.ones(K)}
BY_HAND = {
    "bernoulli": (Bernoulli.create(jnp.full((K, D), 0.5)), K * D),
    "categorical": (Categorical.create(jnp.full((K, D), 1 / D)), K * (D - 1)),
    "categorical with zeros": (Categorical.create(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])), 1),
    "bernoulli with certainties": (Bernoulli.create(jnp.array([0.5, 0.0, 1.0, 0.2])), 2),
    "poisson with a zero": (Poisson.create(jnp.array([[1.0, 0.0], [2.0, 3.0]])), 3),
    "poisson": (Poisson.create(jnp.ones((K, D))), K * D),
    "normal": (Normal.create(jnp.zeros((K, D)), jnp.ones((K, D))), 2 * K * D),
    "regression": (
        LinearGaussian.create(jnp.zeros((K, D, P)), jnp.zeros((K, D)), jnp.ones((K, D))),
        K * (D * P + 2 * D),
    ),
    "network": ({"w": jnp.zeros((2, 5)), "steps": jnp.array(3)}, 10),
    "left to right": (hmm.Theta(*hmm.left_to_right(4), Poisson.create(jnp.ones((4, 1)))), 3 + 4),
    "stationary": (hmm.Theta(None, hmm.sticky(3), Poisson.create(jnp.ones((3, 1)))), 6 + 3),
    "mixtures in an hmm": (
        hmm.Theta(
            *(Categorical(jnp.zeros(K)), hmm.sticky(K)),
            hmm.MixtureEmission(
                Categorical(jnp.zeros((K, P))), Normal.create(jnp.zeros((K, P, D)), jnp.ones((K, P, D)))
            ),
        ),
        (K - 1) + K * (K - 1) + K * (P - 1) + 2 * K * P * D,
    ),
    "grammar": (pcfg.init(jax.random.key(0), 2, 3, 7, single=True).theta, 4 + 2 * 24 + 3 * 6),
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
    total = float(evidence(mixture.model(K))(Params.tied(theta), jnp.asarray(ys)).sum())
    count = criteria.free_parameters(theta)
    np.testing.assert_allclose(criteria.aic(total, count), theirs.aic(ys), rtol=1e-9)
    np.testing.assert_allclose(criteria.bic(total, count, 60), theirs.bic(ys), rtol=1e-9)


def moments_of_a_gaussian(theta):
    """Mean and covariance of y in factor analysis."""
    f = theta.observation
    return f.bias, f.weights @ f.weights.T + jnp.diag(f.scale() ** 2)


def moments_of_a_chain(theta, frames=7):
    """Mean and covariance of all frames of a linear-Gaussian chain, by its recursion."""
    step, seen = theta.transition, theta.observation
    weights = seen.weights.reshape(-1, step.event_size)
    mean, covariance = theta.initial.mean, theta.initial.covariance()
    means, blocks, across = [], {}, {}
    for t in range(frames):
        means.append(weights @ mean + seen.bias.reshape(-1))
        across = {s: step.weights @ c for s, c in across.items()} | {t: covariance}
        blocks |= {(t, s): weights @ c @ weights.T for s, c in across.items()}
        blocks[t, t] += jnp.diag(seen.scale().reshape(-1) ** 2)
        mean = step.weights @ mean + step.bias
        covariance = step.weights @ covariance @ step.weights.T + jnp.diag(step.scale() ** 2)
    return means, blocks


def chain_of(size, entries, spherical=False, ball=False, apart=False):
    draw = lambda *shape: jnp.asarray(np.random.default_rng(sum(shape) + 7).normal(size=shape))
    scale = lambda *shape: jnp.exp(0.3 * draw(*shape))
    root = draw(size, size)
    covariance = scale() if ball else root @ root.T + jnp.eye(size)
    initial = MultivariateNormal.create(draw(size), covariance, covariance_type="spherical" if ball else "full")
    noise = scale() if spherical else scale(size)
    shape = (entries, 1) if apart else (entries,)
    return linear_gaussian_chain.Theta(
        initial,
        LinearGaussian.create(0.5 * draw(size, size), draw(size), noise),
        LinearGaussian.create(draw(*shape, size), draw(*shape), scale(*shape)),
    )


def factors(size, latent, spherical):
    draw = lambda *shape: jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))
    return factor_analysis.Theta(
        LinearGaussian.create(draw(size, latent), draw(size), jnp.exp(draw() if spherical else draw(size)))
    )


@pytest.mark.parametrize(
    ("theta", "moments"),
    [
        *((lambda a=a: factors(*a), moments_of_a_gaussian) for a in [(5, 2, False), (3, 2, False)]),
        *((lambda a=a: factors(*a), moments_of_a_gaussian) for a in [(3, 4, False), (3, 2, True)]),
        *((lambda a=a: chain_of(*a), moments_of_a_chain) for a in [(1, 2), (3, 1), (3, 2), (2, 2, False, False, True)]),
        *(
            (lambda a=a: chain_of(*a), moments_of_a_chain)
            for a in [(2, 1, True), (3, 2, False, True), (2, 1, True, True)]
        ),
    ],
)
def test_the_count_is_the_rank_of_what_the_numbers_can_change(theta, moments, x64):
    """So many directions of theta change the distribution of y, all of which is in these moments."""
    theta = theta()
    flat, unflatten = jax.flatten_util.ravel_pytree(theta)
    change = lambda v: jax.flatten_util.ravel_pytree(moments(unflatten(v)))[0]
    steps = 1e-5 * np.eye(flat.size)
    jacobian = jax.jit(lambda v: jax.vmap(change)(v + steps) - jax.vmap(change)(v - steps))(flat) / 2e-5
    values = np.linalg.svd(np.asarray(jacobian), compute_uv=False)
    assert criteria.free_parameters(theta) == (values > 1e-6 * values[0]).sum()


def test_zeros_that_em_found_count_however_long_it_ran(x64):
    """Words that never come, bits that are never one, rates of nothing are free; what is forbidden stays so."""
    ys = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 12)))
    emission = Categorical(jnp.asarray(np.random.default_rng(1).normal(size=(3, 5))))
    theta = hmm.Theta(Categorical(jnp.zeros(3)), hmm.left_to_right(3)[1], emission)
    before = 2 + 2 + 3 * 4
    model, rule = hmm.model(3), optim.em_step(hmm.model(3))
    found = optim.run(rule, Params.tied(theta), ys, steps=300).params
    assert criteria.free_parameters(found.theta) == before == criteria.free_parameters(theta)
    assert np.isfinite(evidence(model)(found, ys)).all()
    assert (found.theta.emission.probabilities()[:, 3:] == 0).all()
    bits = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    start = Bernoulli.create(jnp.array([0.5, 0.5])), Poisson.create(jnp.array([1.0, 1.0]))
    for family in start:
        statistics = dataclasses.replace(family).statistics_of(family)
        zeros = jax.tree.map(jnp.zeros_like, statistics)
        only = zeros._replace(**{zeros._fields[0]: jax.tree.map(jnp.ones_like, zeros[0])})  # no 1, no count
        none = family.maximize(only)
        assert none.free_parameters() == 2 == none.maximize(only).free_parameters()
        assert np.exp(none.log_prob(jnp.zeros(2))) == 1 and none.log_prob(bits[1]) < elbo.numerics.IMPOSSIBLE
    never = Poisson.create(jnp.array([0.0, 1.0]))
    assert never.maximize(only).free_parameters() == 1


STACKS: dict[str, Any] = {
    "mixture": lambda k: mixture.init(k, jnp.ones((5, 2)), 2).theta,
    "hmm": lambda k: hmm.init(k, jnp.ones((1, 5, 2)), 2).theta,
    "stationary": lambda k: hmm.init(k, jnp.ones((1, 5, 2)), 2, start="stationary").theta,
    "factor analysis": lambda k: factor_analysis.init(k, jnp.ones((5, 3)), 2).theta,
    "linear-Gaussian chain": lambda k: linear_gaussian_chain.init(k, jnp.ones((1, 5, 3)), 2).theta,
    "grammar": lambda k: pcfg.init(k, 2, 2, 3).theta,
    "hmm-vae": lambda k: hmm_vae.build(k, jnp.ones((1, 4, 3)), 2, 1, hidden=())[1].theta,
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_of_models_is_refused(name):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = jax.eval_shape(jax.vmap(STACKS[name]), keys)
    stack = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), shapes)
    with pytest.raises(ValueError, match="the parameters of one model"):
        criteria.free_parameters(stack)
    assert criteria.free_parameters(jax.tree.map(lambda a: a[0], stack)) > 0


def test_what_cannot_be_counted_or_summed_is_named():
    class Odd(Normal):
        free_parameters = None

    theta = mixture.Theta(Categorical(jnp.zeros(2)), Odd.create(jnp.zeros((2, 1)), jnp.ones((2, 1))))
    with pytest.raises(TypeError, match=r"the family Odd has no method free_parameters\(\) -> int"):
        criteria.free_parameters(theta)
    with pytest.raises(TypeError, match="params.theta"):
        criteria.free_parameters(Params.tied(theta))
    with pytest.raises(ValueError, match=r"NaN for data \[1\]"):
        criteria.aic(jnp.array([-1.0, jnp.nan]), 3)
    with pytest.raises(TypeError, match=r"elbo\.evidence"):
        criteria.bic(optim.Info(*[jnp.zeros(())] * 6), 3, 10)
    with pytest.raises(ValueError, match="data: got 0"):
        criteria.bic(-1.0, 3, 0)
    assert criteria.aic(jnp.array([-1.0, -2.0]), 1) == 8.0
    assert criteria.bic(jnp.array([-1.0, -jnp.inf]), 1, 2) == np.inf  # never chosen
