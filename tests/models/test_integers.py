"""Symbols, counts and lengths mean the same in every integer dtype, also where sizes are larger than it can hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import ctc, ctc_decoding, hmm, hmm_inference, mixture, pcfg
from elbo.models import latent_lm as lm
from elbo.models.families import Categorical

V = 300  # 300 is 44 in a byte
KEY = jax.random.key(0)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, V)), jnp.float32)
WORDS = np.array([[7, 44, 100], [44, 7, 7]])
NARROW = [jnp.uint8, jnp.int8, jnp.uint16, jnp.int16, jnp.uint32]


def theta():
    return hmm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.eye(2)), Categorical(LOGITS))


def of_hmms(cast):
    """Through encoder, evidence, decoding, the start and a rule: every door."""
    ys = elbo.Padded(cast(WORDS), cast([3, 2]))
    model, params = hmm.model(2), elbo.Params(theta(), theta())
    new, _, info = optim.em_step(model).update(None, params, (), ys)
    start = hmm.init(KEY, ys, 2, family=Categorical(LOGITS)).theta.emission
    return (
        (elbo.evidence(model)(params, ys), jax.vmap(model.usable)(ys), new.theta.emission.logits, info.dropped),
        (hmm_inference.decode(model, params, ys).states, start.logits),
    )


def of_mixtures(cast):
    ys = cast(WORDS.ravel())
    params = mixture.init(KEY, ys, 2, family=Categorical(LOGITS))
    return params, elbo.evidence(mixture.model(2))(params, ys)


def of_grammars(cast):
    shapes = Categorical(jnp.zeros(1)), Categorical(jnp.zeros((1, 9))), Categorical(LOGITS)
    grammar, ys = pcfg.model(1, 2), elbo.Padded(cast(WORDS), cast([3, 2]))
    return elbo.evidence(grammar)(elbo.Params(pcfg.Theta(*shapes), None), ys), jax.vmap(grammar.usable)(ys)


def of_texts(cast):
    size = lm.Size(V, 2, 1)
    model = lm.neural_hmm(lm.Networks(emit=lambda params, past: LOGITS + past[0]), size)
    params = lm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), ())
    ys = elbo.Padded(cast(WORDS), cast([3, 2]))
    bits = lm.bits_per_symbol(jnp.ones(2), ys)
    return elbo.evidence(model)(elbo.Params(params, None), ys), jax.vmap(model.usable)(ys), bits


def of_losses(cast):
    logits = jnp.stack([jnp.tile(LOGITS, (3, 1))] * 2)
    counts = jnp.zeros((2, 6)), jnp.zeros((2, 3))
    few = partial(ctc.ctc_loss, logits[..., :99], counts[0], label_paddings=cast(counts[1]))
    return ctc.ctc_loss(logits, cast(counts[0]), cast(WORDS), counts[1]), few(cast(WORDS)), few(cast(WORDS % 45))


def of_alignments(cast):
    frames = jnp.stack([jnp.tile(LOGITS, (150, 1))])
    y = elbo.Labelled(elbo.Padded(frames, cast([90])), elbo.Padded(cast(WORDS[:1]), cast([2])))
    model = ctc.model(lambda theta, inputs: theta * inputs.values)
    q = ctc_decoding.posterior(frames[0], cast(WORDS[0]), cast(99), cast(2))
    a, b = elbo.Padded(cast(WORDS[0]), cast(3)), elbo.Padded(cast(WORDS[1]), cast(2))
    return (
        (elbo.evidence(model)(elbo.Params(jnp.ones(()), None), y), jax.vmap(model.usable)(y), q.log_partition()),
        (ctc_decoding.greedy(frames[0], cast(99)), ctc_decoding.edit_distance(a, b)),
    )


def of_chains(cast):
    q = elbo.posteriors.ChainPosterior(jnp.zeros(2), jnp.eye(2), jnp.zeros((V, 2)), cast(100))
    return q.log_partition(), q.path(cast(WORDS.ravel()[0] * np.ones(V) % 2)), q.sample(KEY).states.sum()


def of_a_user(cast):
    """A log_joint of one's own that compares data with a number."""
    log_joint = lambda theta, z, y: z @ jnp.where(y < V, theta, elbo.LOG_ZERO)
    model = elbo.Model(log_joint, lambda psi, y: elbo.CategoricalPosterior(jnp.where(y < V, psi, elbo.LOG_ZERO)))
    exact = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    params, ys = elbo.Params(jnp.arange(2.0), jnp.zeros(2)), cast([100, 120])
    d = elbo.decompose(model, posterior=exact.encoder)(params, ys)
    rule = optim.vae_step(model, optax.sgd(0.1))
    return d, elbo.evidence(exact)(params, ys), rule.update(None, params, rule.init(params), ys)


TABLE = [of_hmms, of_mixtures, of_grammars, of_texts, of_losses, of_alignments, of_chains, of_a_user]


@pytest.mark.parametrize("f", TABLE, ids=lambda f: f.__name__)
def test_bytes_are_what_int32_is(f):
    wide, narrow = (f(lambda a, d=d: jnp.asarray(np.asarray(a), d)) for d in (jnp.int32, jnp.uint8))
    for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow), strict=True):
        np.testing.assert_array_equal(a, b)
    floats = [a for a in jax.tree.leaves(wide) if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    assert any(bool(jnp.isfinite(a).all()) for a in floats)


@pytest.mark.parametrize("dtype", [*NARROW, bool])
def test_every_width_at_the_single_doors(dtype):
    family, one = Categorical(LOGITS), jnp.asarray(1, dtype)
    np.testing.assert_array_equal(family.log_prob(one), family.log_prob(1))
    assert family.supports(one)
    if dtype is bool:
        return
    assert elbo.numerics.widen(one).dtype == jnp.int32 and bool(elbo.numerics.widen(one) < V)
    sequence = elbo.Padded(jnp.zeros((V, 2)), jnp.asarray(100, dtype))
    assert bool(sequence.is_sound()) and int(sequence.mask().sum()) == 100
    assert elbo.as_padded(jnp.zeros(3, dtype)).values.dtype == elbo.as_padded(sequence).length.dtype == jnp.int32


def test_numbers_that_int32_cannot_hold_are_impossible():
    assert elbo.numerics.widen(jnp.asarray(2**32 - 2, jnp.uint32)) < 0
    assert elbo.evidence(hmm.model(2))(elbo.Params(theta(), None), jnp.full((1, 2), 2**32 - 2, jnp.uint32)) == -jnp.inf
    assert not elbo.Padded(jnp.zeros(9), jnp.asarray(2**32 - 2, jnp.uint32)).is_sound()


def test_states_are_matched_in_any_dtype():
    states, reference = np.array([0, 0, 255], np.uint8), np.array([1, 1, 0], np.uint8)
    assert hmm_inference.match(states, reference)[[0, 255]].tolist() == [1, 0]
