"""Grammars: EM against counts of listed parses, Fisher's identity, priors, networks, restarts, padding, samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbo
from elbo import optim
from elbo.models import pcfg
from elbo.models.families import Categorical
from tests.elbo.trees import arrays, listed

N, P, V = 2, 2, 3
LENGTHS = np.array([4, 2, 1, 3, 4])
WORDS = np.array([[0, 1, 2, 0], [1, 1, -7, 9], [2, -7, 9, 9], [2, 0, 0, 99], [1, 0, 2, 2]])
YS = elbo.Padded(jnp.asarray(WORDS), jnp.asarray(LENGTHS))
MODEL = pcfg.model(N, P, single=True)
RULE = optim.em_step(MODEL)


def step(params, ys=YS, weights=None):
    """One EM update; always with weights, so that there is one program for all tests."""
    weights = jnp.ones(len(LENGTHS)) if weights is None else weights
    params, _, info = RULE.update(None, params, (), ys, weights=weights)
    return params, info


def start(seed=0):
    return pcfg.init(jax.random.key(seed), N, P, V, single=True)


def listed_em(theta, ys):
    """Σ ln P and the families after one EM iteration, by summing over every parse of every sentence."""
    root, rules, emission = (np.log(np.asarray(f.probabilities())) for f in theta)
    counts, total = [0 * root, 0 * rules.reshape(N, N + P, N + P), 0 * emission], 0.0
    for words, length in zip(np.asarray(ys.values), np.asarray(ys.length), strict=True):
        words = words[:length]
        potentials = root, rules.reshape(N, N + P, N + P), emission[:, words].T
        parses = [arrays(z, *potentials) for z in listed(int(length), N, P)]
        weight = np.array([sum(np.sum(a * b) for a, b in zip(z, potentials, strict=True)) for z in parses])
        log_p = np.logaddexp.reduce(weight)
        total += log_p
        mean = [np.tensordot(np.exp(weight - log_p), np.stack([z[i] for z in parses]), 1) for i in range(3)]
        counts[0] += mean[0]
        counts[1] += mean[1]
        np.add.at(counts[2].T, words, mean[2])
    tables = counts[0], counts[1].reshape(N, -1), counts[2]
    return total, [t / t.sum(-1, keepdims=True) for t in tables]


def test_em_is_inside_outside_and_never_decreases(x64):
    params, values = start(), []
    total, expected = listed_em(params.theta, YS)
    moved, info = step(params)
    np.testing.assert_allclose(info.elbo * len(LENGTHS), total, rtol=1e-12)
    for family, table in zip(moved.theta, expected, strict=True):
        np.testing.assert_allclose(family.probabilities(), table, atol=1e-12)
    for _ in range(30):
        params, info = step(params)
        values.append(float(info.elbo))
    assert np.all(np.diff(values) >= -1e-9) and values[-1] > values[0] + 0.5


def test_fishers_identity(x64):
    """The gradient of ln P is that of the energy at the posterior's mean."""
    theta = start(1).theta
    y = jax.tree.map(lambda a: a[0], YS)
    mean = jax.jit(lambda theta: MODEL.encoder(theta, y).mean())(theta)

    def evidence(theta):
        nowhere = jax.tree.map(jnp.zeros_like, mean)
        return MODEL.log_joint(theta, nowhere, y) + MODEL.encoder(theta, y).log_partition()

    gradient = jax.jit(jax.grad(evidence))(theta)
    energy = jax.jit(jax.grad(lambda theta: MODEL.log_joint(theta, mean, y)))(theta)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(energy), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_what_cannot_be_parsed_harms_nothing(x64):
    """A word that no tag emits, a word out of the vocabulary, a length of 0: dropped and reported."""
    theta = start().theta
    silent = theta.emission.logits.at[:, 2].set(elbo.LOG_ZERO)
    theta = theta._replace(emission=Categorical(silent))
    params = elbo.Params.tied(theta)
    words = jnp.array([[0, 1, 1, 0], [0, 2, 1, 0], [0, 5, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]], YS.values.dtype)
    moved, info = step(params, elbo.Padded(words, jnp.array([4, 4, 4, 0, 2], YS.length.dtype)))
    assert not info.feasible and int(info.dropped) == 3
    # the same with sentences that have a parse, but do not count
    alone, rest = step(
        params,
        elbo.Padded(words[:1].repeat(5, 0), jnp.array([4, 2, 2, 3, 2], YS.length.dtype)),
        jnp.eye(5)[0] + jnp.eye(5)[4],
    )
    np.testing.assert_allclose(info.elbo, rest.elbo, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_one_word_is_no_sentence_unless_the_root_may_be_a_preterminal(x64):
    params = pcfg.init(jax.random.key(0), N, P, V)
    value = elbo.evidence(pcfg.model(N, P))(params, elbo.Padded(YS.values[:2, :2], jnp.array([2, 1])))
    assert np.isfinite(value[0]) and np.isneginf(value[1])


def test_prior(x64):
    """A Dirichlet prior adds its counts to those of the parses."""
    theta = start().theta
    prior = pcfg.dirichlet(theta, 0.5)
    counts = jnp.arange(1.0, 1 + theta.rules.logits.size).reshape(theta.rules.logits.shape)
    added = counts + prior.rules.statistics(theta.rules)
    np.testing.assert_allclose(added, counts + 0.5, rtol=1e-12)
    rule = optim.em_step(MODEL, prior=prior)
    rule.init(elbo.Params.tied(theta))
    jax.eval_shape(lambda p: rule.update(None, p, (), YS), elbo.Params.tied(theta))


def test_restarts_by_vmap_are_those_one_by_one(x64):
    keys = jax.random.split(jax.random.key(3), 3)
    starts = jax.vmap(lambda k: pcfg.init(k, N, P, V, single=True))(keys)
    together = jax.jit(jax.vmap(lambda p: optim.run(RULE, p, YS, steps=5)))(starts)
    for i in range(3):
        alone = jax.tree.map(lambda a, i=i: a[i], starts)
        for value in together.history.elbo[i]:
            alone, info = step(alone)
            np.testing.assert_allclose(value, info.elbo, rtol=1e-12)


def test_neural_grammar_learns_by_its_gradient():
    families, params = pcfg.build(jax.random.key(0), N, P, V, single=True, width=8)
    model = pcfg.model(N, P, single=True, families=families)
    rule = optim.eg_step(model, optax.adam(0.03))
    run = optim.run(rule, params, YS, steps=40)
    assert run.history.elbo[-1] > run.history.elbo[0] + 0.3
    assert bool(jnp.all(run.history.finite))


def test_parses_and_samples(x64):
    theta, model = start(2).theta, MODEL
    parsed, risk = jax.jit(
        lambda ys: (pcfg.parse(model, elbo.Params(theta), ys), pcfg.consensus(model, elbo.Params(theta), ys))
    )(YS)
    for spans in (parsed.spans, risk):
        for start_, end, length in zip(np.asarray(spans.start), np.asarray(spans.end), LENGTHS, strict=True):
            assert (start_ >= 0).sum() == length - 1
            assert length == 1 or (start_[0], end[0]) == (0, length)
    # a grammar that mostly stops
    rules = np.full((N, N + P, N + P), 0.02)
    rules[:, N:, N:] = 0.19
    theta = theta._replace(rules=Categorical.create(jnp.asarray(rules.reshape(N, -1) / rules.sum((1, 2))[:, None])))
    draws = 4000
    sample = jax.jit(jax.vmap(lambda k: pcfg.sample(k, theta, 5)))
    drawn = jax.device_get(sample(jax.random.split(jax.random.key(0), draws)))
    assert ((drawn.values >= 0).sum(1) == drawn.length).all()
    every = np.stack(np.meshgrid(*[np.arange(V)] * 2, indexing="ij"), -1).reshape(-1, 2)
    ys = elbo.Padded(jnp.asarray(every), jnp.full(len(every), 2))
    p = np.exp(elbo.evidence(model)(elbo.Params.tied(theta), ys))
    pairs = np.asarray(drawn.values[:, :2])[np.asarray(drawn.length) == 2]
    seen = np.array([(pairs == pair).all(1).sum() for pair in every]) / draws
    assert (np.abs(seen - p) <= 5 * np.sqrt(p / draws)).all()


def test_check_model(x64):
    report = elbo.check_model(MODEL, start(), elbo.Padded(YS.values[:2, :2], jnp.array([2, 2])))
    assert report.ok, str(report)
