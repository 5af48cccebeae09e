"""Under jax_debug_nans nothing raises on sound data: what a start, a run or a report returns holds no NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import ctc_loss, hmm, mixture, vae
from elbo.models.families import Normal

KEY = jax.random.key(0)
POINTS = jax.random.normal(KEY, (12, 2))
SEQUENCES = POINTS.reshape(2, 6, 2)
PADDED = elbo.Padded(SEQUENCES.at[0, 1].set(jnp.nan), jnp.array([4, 6]))  # the one NaN that is no fault: no frame there


def fitted(model, params, ys, rule=None, key=None):
    """A run that ends early, whose last steps are no steps."""
    return optim.run(rule or optim.em_step(model), params, ys, key=key, steps=4, tolerance=0.5)


def left_to_right():
    start = jax.jit(hmm.init, static_argnums=2)(KEY, SEQUENCES, 2)
    initial, transition = hmm.left_to_right(2)
    theta = start.theta._replace(initial=initial, transition=transition)
    return fitted(hmm.model(2), elbo.Params.tied(theta), PADDED)


def autoencoder():
    networks, params = vae.build(KEY, 2, 1, hidden=(3,), likelihood="gaussian")
    model = vae.model(networks, "gaussian")
    return fitted(model, params, POINTS, optim.vae_step(model, optax.adam(1e-2)), KEY)


def connectionist():
    def loss(logits):
        zeros = jnp.zeros((1, 5))
        return jnp.sum(ctc_loss.ctc_loss(logits, zeros, jnp.array([[1, 1]]), jnp.zeros((1, 2))))

    return jax.jit(jax.value_and_grad(loss))(jax.random.normal(KEY, (1, 5, 3)))


# families and factors: tests/optim/test_monotone.py; Kalman filters: test_linear_gaussian_chain.py
MODELS = {
    "mixture": lambda: fitted(mixture.model(2), mixture.init(KEY, POINTS, 2), POINTS),
    "hidden Markov": left_to_right,
    "CTC": connectionist,
    "autoencoder": autoencoder,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_nan(name):
    with jax.debug_nans(True):
        seen = MODELS[name]()
    assert name == "CTC" or (np.isfinite(seen.final.objective) and bool(seen.final.finite))


@pytest.mark.parametrize("name", ["lamb", "adafactor", "dog"])
def test_an_optimiser_that_scales_by_norms_leaves_zeros_alone_and_moves_the_rest(name):
    """Hard zeros are stored as −1e30: their norm would be all that such an optimiser sees."""
    optimizer = {"lamb": optax.lamb(1e-2), "adafactor": optax.adafactor(1e-2), "dog": optax.contrib.dog()}[name]
    initial, transition = hmm.left_to_right(2)
    emission = Normal.create(jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.ones((2, 2)))
    theta = hmm.Theta(initial, transition, emission)
    result = optim.run(optim.eg_step(hmm.model(2), optimizer), elbo.Params.tied(theta), SEQUENCES, steps=4)
    assert bool(result.history.finite.all()) and optim.Reason(int(result.reason)) is optim.Reason.MAX_STEPS
    new = result.params.theta
    assert np.abs(np.asarray(new.emission.mean) - emission.mean).max() > 0
    zeros = np.asarray(transition.probabilities()) == 0
    assert zeros.any() and not np.asarray(new.transition.probabilities())[zeros].any()
