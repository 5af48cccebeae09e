"""What people give by mistake where a model starts, is fitted or is asked: the error names it and says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis, hmm, hmm_inference, mixture
from elbo.models.families import Categorical, LinearGaussian, Normal, Poisson, PseudoData

KEY = jax.random.key(0)
POINTS = jax.random.normal(KEY, (12, 2))
SEQUENCES = POINTS.reshape(2, 6, 2)
LIST = [np.zeros((3, 2)), np.zeros((5, 2))]
BYTES = jnp.zeros((12, 2), jnp.uint8)
LINEAR = LinearGaussian.create(jnp.zeros((2, 2, 1)), jnp.zeros((2, 2)), jnp.ones((2, 2)))


def params(module, size, ys):
    return jax.eval_shape(lambda: module.init(KEY, ys, size))


def update(model, params, ys, **options):
    rule = optim.em_step(model, **options)
    return jax.eval_shape(lambda params: rule.update(None, params, (), ys), params)


def mixed(components=2, ys=POINTS, **options):
    return update(mixture.model(2), params(mixture, components, POINTS), ys, **options)


def chained(states=2, ys=SEQUENCES):
    return update(hmm.model(2), params(hmm, states, SEQUENCES), ys)


def labelled(ys):
    theta = hmm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), Categorical(jnp.zeros((2, 3))))
    return update(hmm.model(2), elbo.Params.tied(theta), ys)


def loop(function, **options):
    theta = mixture.Theta(Categorical(jnp.zeros(2)), Normal(jnp.eye(2), jnp.zeros((2, 2)), jnp.zeros(2)))
    return function(optim.em_step(mixture.model(2)), elbo.Params.tied(theta), POINTS, **options)


def rule():
    return optim.em_step(mixture.model(2))


ERRORS = {
    "a list of sequences, to start": (lambda: hmm.init(KEY, LIST, 2), "ys: got a list of 2, .*elbo.Padded"),
    "a list of sequences, to fit": (lambda: chained(ys=LIST), "ys: got a list of 2"),
    "a list of sequences, to decode": (
        lambda: hmm_inference.decode(hmm.model(2), params(hmm, 2, SEQUENCES), LIST),
        "ys: got a list of 2",
    ),
    "labels that are not integers": (lambda: labelled(jnp.zeros((1, 4))), r"x: got float32\[\], expected an integer"),
    "other components": (lambda: mixed(3), r"got 3 components, expected the 2 of mixture.model\(2\)"),
    "other states": (lambda: chained(3), r"got 3 states, expected the 2 of hmm.model\(2\)"),
    "other latents": (
        lambda: update(factor_analysis.model(1), params(factor_analysis, 2, POINTS), POINTS),
        "got 2 latent dimensions, expected the 1 of",
    ),
    "bytes, to start": (lambda: mixture.init(KEY, BYTES, 2), r"ys: got uint8\[12, 2\], expected .*floating-point"),
    "bytes, to fit": (lambda: mixed(ys=BYTES), "x: got int32, expected floating point"),
    "a family that reads inputs": (lambda: mixture.init(KEY, POINTS, 2, family=LINEAR), "reads an input beside"),
    "a class": (lambda: mixture.init(KEY, POINTS, 2, family=Normal), "family: got the class Normal"),
    "a class of emissions": (lambda: hmm.init(KEY, SEQUENCES, 2, family=Normal), "family: got the class Normal"),
    "a name": (lambda: mixture.init(KEY, POINTS, 2, family="gaussian"), "family: got str 'gaussian'"),
    "another batch": (lambda: mixture.init(KEY, POINTS, 2, family=Poisson(jnp.zeros((3, 2)))), "got batch shape"),
    "steps < 0": (lambda: loop(optim.run, steps=-1), "steps: got -1"),
    "half a step": (lambda: loop(optim.run, steps=2.5), "steps: got float 2.5, expected a whole number"),
    "half a step of fit": (lambda: loop(optim.fit, steps=2.5), "steps: got float 2.5"),
    "no tolerance": (lambda: loop(optim.fit, tolerance=float("nan")), "tolerance: got nan"),
    "half a time": (lambda: optim.repeat(rule(), 1.5), "times: got float 1.5"),
    "half a datum": (lambda: optim.minibatches(rule(), 1.5), "size: got float 1.5"),
    "half a chunk": (lambda: mixed(chunk_size=2.5), "chunk_size: got 2.5"),
    "another word for auto": (lambda: mixed(chunk_size="automatic"), "chunk_size: got 'automatic'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_error_names_what_was_given(name):
    call, words = ERRORS[name]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


KNOWN = {
    "a prior's count": lambda n: mixed(prior=mixture.Theta(PseudoData(Categorical(jnp.zeros(2)), n), None)),
    "a rate": lambda n: optim.damp(mixture.model(2), rule(), n),
    "a probability": lambda n: hmm.left_to_right(3, stay=n),
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_array_is_a_number_under_jit_too(name):
    good, bad = jnp.float32(0.5), jnp.float32(-1.0)
    KNOWN[name](good)
    jax.eval_shape(lambda: (KNOWN[name](good), 0)[1])
    with pytest.raises(ValueError, match=r"got -1\.0"):
        jax.eval_shape(lambda: (KNOWN[name](bad), 0)[1])
