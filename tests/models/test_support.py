"""Data that a distribution cannot give: impossible under every model, counted, and without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo._polynomial import degree
from elbo.models import hmm, hmm_vae, mixture, vae
from elbo.models.families import Bernoulli, Categorical, Normal, Poisson

FAMILIES = {
    "bits": (Bernoulli.create(jnp.array([[0.2, 0.7], [0.6, 0.5]])), jnp.array([0.0, 1.0])),
    "counts": (Poisson.create(jnp.array([[2.0, 3.0], [1.0, 1.0]])), jnp.array([0.0, 4.0])),
    "letters": (Categorical.create(jnp.array([[0.2, 0.8], [0.6, 0.4]])), jnp.array(1)),
    "indicators": (Categorical.create(jnp.array([[0.2, 0.8], [0.6, 0.4]])), jnp.array([0.0, 1.0])),
    "reals": (Normal.create(jnp.zeros((2, 2)), jnp.ones((2, 2))), jnp.array([0.0, -1.0])),
}
OFF = {
    "bits": [[-1.0, 1.0], [1.0, 1.5], [255.0, 0.0], [jnp.inf, 0.0]],
    "counts": [[-1.0, 0.0], [0.5, 1.0], [jnp.inf, 1.0]],
    "letters": [-1, 2, 255],
    "indicators": [[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 255.0], [jnp.inf, 1.0]],
    "reals": [[jnp.inf, 0.0], [0.0, -jnp.inf]],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_mixtures_and_hmms_drop_what_their_family_cannot_give(name):
    family, datum = FAMILIES[name]
    junk = jnp.asarray(OFF[name], datum.dtype)
    ys = jnp.concatenate([jnp.tile(datum[None], (4, *(1,) * datum.ndim)), junk])
    theta = mixture.Theta(Categorical(jnp.zeros(2)), family)
    chain = hmm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), family)
    # one sequence for each datum: two good frames, then it
    frames = jnp.stack([jnp.stack([datum, datum, y]) for y in ys])
    cases = [(mixture.model(2), elbo.Params.tied(theta), ys)]
    if name in ("indicators", "counts"):
        cases.append((hmm.model(2), elbo.Params.tied(chain), frames))
    for model, params, data in cases:
        values = elbo.evidence(model)(params, data)
        assert np.isfinite(values[:4]).all() and not np.isfinite(values[4:]).any()
        rule = optim.em_step(model)
        mixed, good = (rule.update(None, params, (), data, weights=w) for w in (ones(values), ones(values, values)))
        assert int(mixed[2].dropped) == len(junk) and not bool(mixed[2].feasible)
        assert int(good[2].dropped) == 0
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mixed[0], good[0])


def ones(like, values=0.0):
    """Weights 1, and 0 where the values are not finite."""
    return jnp.ones_like(like) * jnp.isfinite(values)


def test_decoders_drop_what_is_not_in_the_unit_interval(key):
    ys = jnp.array([[0.0, 1.0, 0.25], [1.0, 0.0, 1.0], [-1.0, 1.0, 1.0], [0.0, 255.0, 0.0]])
    networks, params = vae.build(key, 3, 2, hidden=(4,))
    chains, chain_params = hmm_vae.build(key, jnp.stack([ys[:2]] * 2), 2, 2, hidden=(4,))
    frames = jnp.stack([ys[:2], ys[1:3], ys[2:]])
    cases = [(vae.model(networks), params, ys), (hmm_vae.model(chains, 2), chain_params, frames)]
    for model, start, data in cases:
        values = elbo.elbo(model)(start, data, key)
        assert not np.isfinite(values[-2:]).any() and np.isfinite(values[:-2]).all()
        rule = optim.vae_step(model, optax.sgd(0.1))
        state = rule.init(start)
        mixed, good = (rule.update(key, start, state, data, weights=w) for w in (ones(values), ones(values, values)))
        assert int(mixed[2].dropped) == 2 and int(good[2].dropped) == 0
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), mixed[0], good[0])


@pytest.mark.parametrize("wrong", [-0.5, 1.5])
def test_posteriors_of_bits_as_likelihoods(wrong):
    """A check is no term: the log probability of latent bits is affine all the same."""
    f = elbo.BernoulliPosterior(jnp.array([0.0, 3.0]))
    z = jnp.array([1.0, 0.5])
    assert elbo.numerics.is_feasible(f.log_prob(z)) and not elbo.numerics.is_feasible(f.log_prob(z.at[0].set(wrong)))
    g = Bernoulli(jnp.array([0.0, 3.0]))
    assert degree(f.log_prob, z) == degree(g.log_prob, z) == 1
    assert degree(Categorical(z).log_prob, z) == degree(elbo.CategoricalPosterior(z).log_prob, z) == 1


@pytest.mark.parametrize("create", [Bernoulli.create, Poisson.create, Categorical.create])
def test_probabilities_that_are_none(create):
    leaf = jax.tree.leaves(create(jnp.array([[0.5, -0.1]])))[0]
    assert np.isfinite(leaf[0, 0]) and np.isnan(leaf[0, 1])


def test_numbers_that_overflow_together_are_finite():
    assert bool(elbo.numerics.all_finite([jnp.array([1e38, 3e38, 3e38]), jnp.array(3)]))
    for junk in (jnp.nan, jnp.inf, -jnp.inf):
        assert not bool(elbo.numerics.all_finite([jnp.zeros(2), jnp.array([1.0, junk])]))
