"""Models are values: made anew they are equal, so that calls in a loop compile once, and they go through pickle."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.extend import value
from elbo.models import ctc, factor_analysis, hmm, hmm_vae, latent_lm, linear_gaussian_chain, mixture, pcfg, ppca, vae
from elbo.models.families import Categorical, PseudoData


def network(params, *inputs):
    """In place of any network."""
    return params


SGD = optax.sgd(0.1)
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


@value
class Dice:
    by: Any = 1

    def __call__(self, theta, z, y):
        return jnp.sum(z) + sum(family.log_prob(y) for family in theta.values())


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


def test_rules_and_transforms_are_values():
    model = mixture.model(2)
    prior = jnp.ones(3)
    for make in (
        lambda: elbo.evidence(mixture.model(2)),
        lambda: elbo.decompose(mixture.model(2), batch_size=3),
        lambda: optim.em_step(mixture.model(2), prior=prior),
        lambda: optim.minibatches(optim.damp(model, optim.restrict(optim.em_step(model), "theta.weights"), 0.5), 4),
        lambda: optim.chain(optim.repeat(optim.em_step(model), 2), optim.eg_step(model, SGD)),
    ):
        assert make() == make() and hash(make()) == hash(make())
    assert optim.em_step(model, prior=prior) != optim.em_step(model, prior=jnp.ones(3))
    assert optim.em_step(model) != optim.em_step(model, keep=True) and optim.em_step(model) != optim.em_step(
        hmm.model(2)
    )
    assert "mixture.log_joint" in repr(optim.em_step(model))


def test_equal_rules_share_a_program_and_changed_arrays_do_not():
    traces = []

    def log_joint(theta, z, y):
        traces.append(None)
        return theta.log_prob(y) + jnp.sum(z)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(1)))
    die, ys, count = Categorical(jnp.zeros(3)), jnp.array([0, 0, 1]), np.array(1.0)

    def step():
        rule = optim.em_step(model, prior=PseudoData(die, count))
        return rule.update(None, elbo.Params(die), (), ys)[0].theta.probabilities()

    first, traced = step(), len(traces)
    np.testing.assert_array_equal(step(), first)
    assert len(traces) == traced > 0
    count[...] = 300.0  # in place
    assert abs(step() - first).max() > 0.1


def test_what_a_rule_was_made_of_may_change():
    model, die = elbo.Model(dice := Dice(), elbo.exact(dice, elbo.categorical(1))), Categorical(jnp.zeros(3))
    prior, moves, params = {"a": None, "b": None}, {"a": True, "b": False}, elbo.Params({"a": die, "b": die})
    ys = jnp.array([0, 0, 1])

    def moved(rule):
        new = rule.update(None, params, rule.init(params), ys)[0].theta
        return {name: bool((new[name].logits != die.logits).any()) for name in new}

    plain = optim.em_step(model, prior=prior)
    first = plain.update(None, params, (), ys)[0].theta["a"].probabilities()
    prior["a"] = PseudoData(die, 1000.0)
    np.testing.assert_array_equal(plain.update(None, params, (), ys)[0].theta["a"].probabilities(), first)
    weighed = optim.em_step(model, prior=prior).update(None, params, (), ys)[0].theta["a"].probabilities()
    np.testing.assert_allclose(weighed, 1 / 3, atol=1e-3)
    rule = optim.restrict(optim.em_step(model), elbo.Params(moves, True))
    assert moved(rule) == {"a": True, "b": False}
    moves["a"], moves["b"] = False, True
    assert moved(rule) == {"a": True, "b": False}
    assert moved(optim.restrict(optim.em_step(model), elbo.Params(moves, True))) == {"a": False, "b": True}


def test_numbers_of_other_types_are_other_values():
    assert len({Dice(by) for by in (1, 1.0, True, 0.0, -0.0, (1,), (1.0,))}) == 7
    assert Dice(2) == Dice(2) and Dice((1, 2.0)) == Dice((1, 2.0))


def test_an_encoder_without_its_parameters_is_named():
    params = elbo.Params(vae.build(jax.random.key(0), 3, 1)[1].theta)
    networks = vae.build(jax.random.key(0), 3, 1)[0]
    with pytest.raises(Exception) as raised:
        elbo.elbo(vae.model(networks))(params, jnp.ones((1, 3)), jax.random.key(0))
    assert any("params.psi: got None" in note for note in raised.value.__notes__)
