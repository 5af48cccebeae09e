"""Under jax_debug_nans nothing raises on sound data: what a start, a run or a report returns holds no NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
import optim
from models import ctc_loss, factor_analysis, hmm, linear_gaussian_chain, mixture, pcfg, vae
from models.families import Bernoulli, Categorical, Normal, Poisson

KEY = jax.random.key(0)
POINTS = jax.random.normal(KEY, (12, 2))
SEQUENCES = POINTS.reshape(2, 6, 2)


def fitted(model, params, ys, rule=None, key=None):
    """Runs with and without a tolerance, which end in different programs; one of them ends early."""
    rule = rule or optim.em_step(model)
    long = optim.run(rule, params, ys, key=key, steps=3, tolerance=0.5)
    return long, optim.run(rule, params, ys, key=key, steps=2), elbo.elbo(model)(params, ys, key)


def mixture_of(family, ys):
    return fitted(mixture.model(2), mixture.init(KEY, ys, 2, family=family), ys)


def left_to_right():
    ys = elbo.Padded(
        SEQUENCES.at[0, 1].set(jnp.nan), jnp.array([4, 6])
    )  # the one NaN that is no fault: a missing frame
    start = jax.jit(hmm.init, static_argnums=2)(KEY, SEQUENCES, 2)
    initial, transition = hmm.left_to_right(2)
    theta = start.theta._replace(initial=initial, transition=transition)
    return fitted(hmm.model(2), elbo.Params(theta, theta), ys)


def autoencoder():
    networks, params = vae.init(KEY, 2, 1, hidden=(3,), likelihood="gaussian")
    model = vae.model(networks, "gaussian")
    return fitted(model, params, POINTS, optim.vae_step(model, optax.adam(1e-2)), KEY)


def grammar():
    ys = elbo.Padded(jnp.zeros((2, 3), jnp.int32), jnp.array([3, 2]))
    return fitted(pcfg.model(2, 2), pcfg.init(KEY, 2, 2, 3), ys)


def connectionist():
    def loss(logits):
        zeros = jnp.zeros((1, 5))
        return jnp.sum(ctc_loss.ctc_loss(logits, zeros, jnp.array([[1, 1]]), jnp.zeros((1, 2))))

    return jax.jit(jax.value_and_grad(loss))(jax.random.normal(KEY, (1, 5, 3)))


MODELS = {
    "full": lambda: mixture_of(None, POINTS),
    "diagonal": lambda: mixture_of(Normal.create(jnp.zeros((2, 2)), jnp.ones((2, 2))), POINTS),
    "Poisson": lambda: mixture_of(Poisson(jnp.zeros((2, 2))), jnp.abs(jnp.round(POINTS))),
    "Bernoulli": lambda: mixture_of(Bernoulli(jnp.zeros((2, 2))), (POINTS > 0).astype(jnp.float32)),
    "Categorical": lambda: mixture_of(Categorical(jnp.zeros((2, 3))), jnp.arange(12) % 3),
    "factors": lambda: fitted(factor_analysis.model(1), factor_analysis.init(KEY, POINTS, 1), POINTS),
    "hidden Markov": left_to_right,
    "Kalman": lambda: fitted(linear_gaussian_chain.model(1), linear_gaussian_chain.init(KEY, SEQUENCES, 1), SEQUENCES),
    "grammar": grammar,
    "CTC": connectionist,
    "autoencoder": autoencoder,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_nan(name):
    with jax.debug_nans(True):
        seen = MODELS[name]()
    for run in seen[:2] if name != "CTC" else ():
        assert np.isfinite(run.final.objective) and bool(run.final.finite)


@pytest.mark.parametrize("name", ["lamb", "adafactor", "dog"])
def test_an_optimiser_that_scales_by_norms_leaves_zeros_alone_and_moves_the_rest(name):
    """Hard zeros are stored as −1e30: their norm would be all that such an optimiser sees."""
    optimizer = {"lamb": optax.lamb(1e-2), "adafactor": optax.adafactor(1e-2), "dog": optax.contrib.dog()}[name]
    initial, transition = hmm.left_to_right(2)
    emission = Normal.create(jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.ones((2, 2)))
    theta = hmm.Theta(initial, transition, emission)
    result = optim.run(optim.eg_step(hmm.model(2), optimizer), elbo.Params(theta, theta), SEQUENCES, steps=4)
    assert bool(result.history.finite.all()) and optim.Reason(int(result.reason)) is optim.Reason.MAX_STEPS
    new = result.params.theta
    assert np.abs(np.asarray(new.emission.mean) - emission.mean).max() > 0
    zeros = np.asarray(transition.probabilities()) == 0
    assert zeros.any() and not np.asarray(new.transition.probabilities())[zeros].any()
