"""Language models with latent states: each against the sum over all its paths, written out by hand."""

import functools
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, latent_lm
from elbo.models.families import Categorical

SIZE = latent_lm.Size(symbols=3, states=2, past=2)
FRAMES = 4
TEXT = np.array([2, 0, 0, 1], np.int32)
SAMPLED = elbo.Automatic(elbo.ScoreFunction(2))


def doubled(tree, seed):
    """In float64, with noise on every number so that nothing is zero by the way it starts."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, float) + 0.3 * rng.normal(size=a.shape)), tree)


@functools.cache
def model(kind, *, double=True):
    """(networks, model, params)."""
    with jax.enable_x64(double):
        if kind == "recurrent":
            networks, params = latent_lm.build_recurrent(jax.random.key(0), SIZE, hidden=3, embedding=2, reader=2)
        else:
            reader = 2 if kind == "amortised" else 0
            networks, params = latent_lm.build(jax.random.key(0), SIZE, hidden=(3,), embedding=2, reader=reader)
        made = getattr(latent_lm, kind)(networks, SIZE)
        return networks, made, doubled(params, 1) if double else params


@functools.cache
def objective(kind):
    """The objective's value and gradient, compiled once: of (params, ys, key)."""
    _, made, _ = model(kind)
    value = elbo.elbo(made, estimator=SAMPLED if kind == "recurrent" else None)
    return jax.jit(jax.value_and_grad(lambda params, ys, key: value(params, ys, key).sum()))


def with_junk():
    """A batch of one text with junk behind it: what is compared with the sum over paths never sees the junk."""
    return elbo.Padded(jnp.asarray(np.append(TEXT, np.int32([99, -7])))[None], jnp.array([FRAMES], jnp.int32))


def paths(length=FRAMES):
    return jnp.array(list(product(range(SIZE.states), repeat=length)))


def steps(log_a, path):
    return sum(log_a[path[t], path[t + 1]] for t in range(len(path) - 1))


def joint(kind, theta, path, text):
    """ln P(path, text), one symbol after the other."""
    networks = model(kind)[0]
    total = jax.nn.log_softmax(theta.initial.logits)[path[0]] + steps(jax.nn.log_softmax(theta.transition.logits), path)
    h, before = theta.network.get("start"), [SIZE.symbols] * 2
    for state, symbol in zip(path, text, strict=True):
        if kind == "recurrent":
            h, logits = networks.step(theta.network, h, jnp.eye(SIZE.states)[state], jnp.array(before[-1]))
        else:
            logits = networks.emit(theta.network, jnp.array(before[-2:]))[state]
        total += jax.nn.log_softmax(logits)[symbol]
        before.append(int(symbol))
    return total


def joints(kind, theta, text):
    """Of every path."""
    return jax.vmap(lambda path: joint(kind, theta, path, text))(paths(len(text)))


def evidence(kind, theta, text):
    return jax.nn.logsumexp(joints(kind, theta, text))


def bound(kind, params, text):
    """Σ_z q (ln P − ln q); the potentials of q are the encoder's, the sum over paths is not."""
    psi = params.psi
    states = model(kind)[0].read(psi.network, jnp.asarray(text), jnp.ones(len(text), bool))

    def score(path):
        return psi.initial[path[0]] + steps(psi.transition, path) + sum(states[t, k] for t, k in enumerate(path))

    log_q = jax.nn.log_softmax(jax.vmap(score)(paths(len(text))))
    return jnp.sum(jnp.exp(log_q) * (joints(kind, params.theta, text) - log_q))


@functools.cache
def enumerated(kind):
    """The bound with its gradient, and ln P(TEXT), compiled: of params."""
    return jax.jit(jax.value_and_grad(lambda p: (bound(kind, p, TEXT), evidence(kind, p.theta, TEXT)), has_aux=True))


def assert_trees_close(a, b, **kwargs):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **kwargs)


def test_expected_gradient_is_that_of_the_evidence(x64):
    """One step of eg_step with gradient ascent at rate 1 is the gradient of ln P(y), summed over all paths."""
    _, made, params = model("neural_hmm")
    value, slope = jax.jit(jax.value_and_grad(lambda theta: evidence("neural_hmm", theta, TEXT)))(params.theta)
    rule = optim.eg_step(made, optax.sgd(1.0))
    moved, _, info = rule.update(None, params, rule.init(params), with_junk())
    np.testing.assert_allclose(info.elbo, value, rtol=1e-10)
    assert_trees_close(jax.tree.map(jnp.subtract, moved.theta, params.theta), slope, rtol=1e-8, atol=1e-10)


def test_the_amortised_bound_is_the_sum_over_paths_below_the_evidence(x64):
    _, _, params = model("amortised")
    value, slope = objective("amortised")(params, with_junk(), None)
    (truth, log_p), exact_slope = enumerated("amortised")(params)
    np.testing.assert_allclose(value, truth, rtol=1e-10)
    assert_trees_close(slope, exact_slope, rtol=1e-7, atol=1e-10)
    assert value < log_p


def test_no_exact_expectation_is_taken_of_a_decoder_that_reads_the_path():
    _, made, params = model("recurrent", double=False)
    ys = jnp.asarray(TEXT)[None]
    pattern = r"neither affine nor quadratic in z.*Chain.*ScoreFunction\(samples\).*Relaxed\(temperature\)"
    rule = optim.vae_step(made, optax.sgd(0.1))
    with pytest.raises(elbo.StructureError, match=pattern):
        elbo.elbo(made)(params, ys, jax.random.key(0))
    with pytest.raises(elbo.StructureError, match=pattern):
        rule.update(jax.random.key(0), params, rule.init(params), ys)
    with pytest.raises(elbo.StructureError, match=r"silently wrong.*ScoreFunction"):
        elbo.elbo(made, estimator=elbo.ClosedForm())(params, ys)
    report = elbo.check_model(made, params, ys, key=jax.random.key(0))
    assert report.ok and "no estimator fits by itself: give the rules one, ScoreFunction" in str(report)
    with pytest.raises(elbo.StructureError, match=r"is not affine in z.*ScoreFunction\(\) or Relaxed"):
        elbo.exact(made.log_joint, elbo.chain(SIZE.states))(params.theta, jnp.asarray(TEXT))


def test_check_model(x64):
    _, made, params = model("amortised")
    report = elbo.check_model(made, params, jnp.asarray([TEXT, TEXT[::-1]]))
    assert report.ok, report


def test_symbols_that_are_none_are_impossible_and_dropped(x64):
    _, made, params = model("neural_hmm")
    ys = jnp.asarray([TEXT, [0, 3, 1, 1], TEXT, [0, -1, 1, 1]])
    got = elbo.evidence(made)(params, ys)
    np.testing.assert_array_equal(got[jnp.array([1, 3])], -np.inf)
    assert got[0] == got[2] > -20
    rule = optim.eg_step(made, optax.sgd(0.1))
    step = lambda weights: rule.update(None, params, rule.init(params), ys, weights=jnp.asarray(weights))
    (moved, _, info), (alone, _, _) = step([1.0, 1.0, 1.0, 1.0]), step([1.0, 0.0, 1.0, 0.0])
    assert info.dropped == 2 and not info.feasible and info.finite
    assert_trees_close(moved, alone, rtol=1e-12)


def test_without_a_past_it_is_a_hidden_markov_model(x64):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))
    chain = Categorical(jnp.array([0.3, -0.2])), Categorical(jnp.array([[0.5, 0.1], [-0.4, 0.9]]))
    networks = latent_lm.Networks(emit=lambda params, past: params)
    ours = elbo.evidence(latent_lm.neural_hmm(networks, SIZE._replace(past=0)))
    theirs = elbo.evidence(hmm.model(2))
    ys = jnp.asarray([TEXT, TEXT[::-1]])
    theta = latent_lm.Theta(*chain, logits)
    reference = hmm.Theta(*chain, Categorical(logits))
    np.testing.assert_allclose(ours(elbo.Params.tied(theta), ys), theirs(elbo.Params.tied(reference), ys), rtol=1e-12)


@pytest.mark.parametrize("kind", ["neural_hmm", "recurrent"])
def test_sampled_texts_have_the_probabilities_of_the_model(kind, x64, key):
    """All nine texts of two symbols, in 4000 draws."""
    networks, _, params = model(kind)
    draw = jax.jit(jax.vmap(lambda k: latent_lm.sample(k, networks, params.theta, SIZE, 2)))
    states, symbols = draw(jax.random.split(key, 4000))
    assert states.shape == symbols.shape == (4000, 2)
    seen = np.bincount(np.asarray(symbols) @ [3, 1], minlength=9) / 4000
    log_p = jax.jit(lambda theta: jnp.stack([evidence(kind, theta, t) for t in product(range(3), repeat=2)]))
    p = np.exp(log_p(params.theta))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    assert (np.abs(seen - p) < 5 * np.sqrt(p * (1 - p) / 4000)).all()


def test_rules_raise_the_sampled_bound(key):
    """float32; texts in which one symbol is always followed by another, of several lengths."""
    _, made, params = model("recurrent", double=False)
    ys = elbo.Padded(jnp.tile(jnp.array([0, 1, 2, 0, 1, 2]), (8, 1)), jnp.array([6, 6, 6, 5, 4, 3, 2, 1]))
    run = optim.run(optim.vae_step(made, optax.adam(3e-2), estimator=SAMPLED), params, ys, key=key, steps=80)
    assert run.history.finite.all() and run.history.feasible.all()
    assert run.history.elbo[-1] > run.history.elbo[0] + 1.5
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(run.params))


def test_wrong_texts_are_refused():
    _, made, params = model("neural_hmm", double=False)
    with pytest.raises(ValueError, match=r"y: got float32\[4\], expected one text, integers \[T\]"):
        elbo.evidence(made)(params, jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"y: got int32\[1, 4\], expected one text"):
        elbo.evidence(made)(params, jnp.zeros((1, 1, 4), jnp.int32))
