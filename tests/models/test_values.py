"""Models are values: made anew they are equal, so that calls in a loop compile once, and they go through pickle."""

import pickle

import jax
import jax.numpy as jnp
import pytest

import elbo
from elbo.models import ctc, factor_analysis, hmm, hmm_vae, latent_lm, linear_gaussian_chain, mixture, pcfg, ppca, vae


def network(params, *inputs):
    """In place of any network."""
    return params


SIZE = latent_lm.Size(symbols=3, states=2, past=1)
EMIT, READ = latent_lm.Networks(emit=network), latent_lm.Networks(emit=network, read=network)
STEP = latent_lm.Networks(start=network, step=network, read=network)
FACTORIES = {
    "mixture": lambda: mixture.model(3),
    "hmm": lambda: hmm.model(3),
    "stationary hmm": lambda: hmm.model(3, network, start="stationary"),
    "factor analysis": lambda: factor_analysis.model(2),
    "amortized factor analysis": lambda: factor_analysis.amortized(),
    "ppca": lambda: ppca.model(2),
    "linear-Gaussian chain": lambda: linear_gaussian_chain.model(2, missing="entries"),
    "vae": lambda: vae.model(vae.Networks(network, network), "gaussian"),
    "hmm-vae": lambda: hmm_vae.model(vae.Networks(network, network), 2, context=1),
    "neural hmm": lambda: latent_lm.neural_hmm(EMIT, SIZE),
    "amortised": lambda: latent_lm.amortised(READ, SIZE),
    "recurrent": lambda: latent_lm.recurrent(STEP, SIZE),
    "ctc": lambda: ctc.model(network, blank=1),
    "grammar": lambda: pcfg.model(2, 3, single=True),
    "neural grammar": lambda: pcfg.model(2, 3, families=network),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_models_are_values(name):
    model = FACTORIES[name]()
    assert model == FACTORIES[name]() and hash(model) == hash(FACTORIES[name]())
    assert elbo.elbo(model) == elbo.elbo(FACTORIES[name]())
    again = pickle.loads(pickle.dumps(model))
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert again == model and hash(again) == hash(model)
    assert "0x" not in repr(model).replace(repr(network), "")  # no address of an object


def test_models_of_other_arguments_differ():
    pairs = (hmm.model(2), hmm.model(3)), (hmm.model(2), hmm.model(2, start="stationary"))
    pairs += (pcfg.model(2, 3), pcfg.model(2, 3, single=True)), (ctc.model(network), ctc.model(network, stride=2))
    assert all(a != b for a, b in pairs)


def test_a_model_that_was_pickled_computes():
    theta = hmm.Theta(*hmm.left_to_right(2), mixture.gaussian(jnp.arange(4.0)[:, None], 2))
    again = pickle.loads(pickle.dumps(hmm.model(2)))
    ys = jnp.arange(3.0)[None, :, None]
    assert (
        elbo.evidence(again)(elbo.Params.tied(theta), ys) == elbo.evidence(hmm.model(2))(elbo.Params.tied(theta), ys)
    ).all()
