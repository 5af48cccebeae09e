"""HMM-VAEs: the bound by enumeration and quadrature, its gradient, and the rule composed of EM and a gradient."""

import functools
from itertools import product

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, hmm_vae, vae
from elbo.models.families import Categorical, Normal

STATES = 2


def chain(seed, size=1):
    rng = np.random.default_rng(seed)
    rows = rng.gamma(2.0, size=(STATES, STATES))
    emission = Normal.create(
        jnp.asarray(rng.normal(size=(STATES, size))), jnp.asarray(rng.gamma(4.0, 0.2, (STATES, size)))
    )
    return hmm.Theta(
        Categorical.create(jnp.array([0.7, 0.3])),
        Categorical.create(jnp.asarray(rows / rows.sum(1, keepdims=True))),
        emission,
    )


def linear():
    """y_t = w x_t + b + noise, y and x of one dimension, q(x_t | y) = N(a y_t + c y_(t-1) + d y_(t+1), exp(r)²)."""
    decode = lambda p, x: p["w"] * x + p["b"]
    encode = lambda p, window: jnp.stack([window @ p["a"], p["r"]])
    decoder = vae.GaussianTheta({"w": jnp.asarray(1.3), "b": jnp.asarray(0.2)}, jnp.asarray(-0.4))
    encoder = {"a": jnp.array([0.1, 0.6, -0.2]), "r": jnp.asarray(-0.6)}
    model = hmm_vae.model(vae.Networks(decode, encode), STATES, "gaussian", context=1)
    params = elbo.Params(hmm_vae.Theta(chain(0), decoder), hmm_vae.Psi(chain(1), encoder))
    return model, params


def log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def path_scores(theta, x):
    """Of every path ln P(s, x), [paths, ...]; x is [T, ...]."""
    start, steps = (np.asarray(f.probabilities()) for f in (theta.initial, theta.transition))
    mean, scale = np.asarray(theta.emission.mean)[:, 0], np.asarray(theta.emission.scale())[:, 0]
    rows = []
    for s in product(range(STATES), repeat=len(x)):
        moves = sum(np.log(steps[i, j]) for i, j in zip(s[:-1], s[1:], strict=True))
        rows.append(np.log(start[s[0]]) + moves + sum(log_normal(x[t], mean[k], scale[k]) for t, k in enumerate(s)))
    return np.array(rows)


def conditional_bound(params, x, y):
    """E_{P_Ψ(s|x)} [ln P(s, x, y) − ln P_Ψ(s | x)] by the list of paths; x and y are [T, ...]."""
    ours, theirs = path_scores(params.theta.chain, x), path_scores(params.psi.chain, x)
    log_q = theirs - np.log(np.exp(theirs).sum(0))
    decoder = params.theta.decoder
    w, b = (float(decoder.network[n]) for n in "wb")
    fit = sum(log_normal(y[t], w * x[t] + b, np.exp(float(decoder.log_scale))) for t in range(len(x)))
    return np.sum(np.exp(log_q) * (ours - log_q), 0) + fit


def encoded(params, y):
    window = np.stack([np.append(0, y[:-1]), y, np.append(y[1:], 0)], -1)
    return window @ np.asarray(params.psi.encoder["a"]), float(params.psi.encoder["r"])


def test_at_the_sampled_x_the_bound_is_the_sum_over_all_paths(x64, key):
    model, params = linear()
    ys = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 1)))
    got = elbo.elbo(model)(params, ys, key)
    sample = jax.jit(jax.vmap(lambda y, k: model.encoder(params.psi, y).outer.sample(jax.random.split(k)[0])))
    xs = np.asarray(sample(ys, jax.random.split(key, 3)))[..., 0]
    for y, x, value in zip(np.asarray(ys)[..., 0], xs, got, strict=True):
        entropy = 4 * (encoded(params, y)[1] + 0.5 * np.log(2 * np.pi * np.e))
        np.testing.assert_allclose(value, conditional_bound(params, x, y) + entropy, rtol=1e-10)


def test_the_bound_lies_below_the_evidence_by_quadrature(x64, key):
    """T = 2: E_q by Gauss-Hermite, ln P(y) by the trapezoid rule; and 4000 samples average to the bound."""
    model, params = linear()
    y = np.array([0.9, -0.4])
    loc, log_scale = encoded(params, y)
    nodes, weights = np.polynomial.hermite_e.hermegauss(50)
    x = loc[:, None, None] + np.exp(log_scale) * np.stack(np.meshgrid(nodes, nodes, indexing="ij"))
    average = np.sum(np.outer(weights, weights) * conditional_bound(params, x, y)) / (2 * np.pi)
    bound = average + 2 * (log_scale + 0.5 * np.log(2 * np.pi * np.e))

    each = elbo.elbo(model)(params, jnp.tile(jnp.asarray(y)[:, None], (4000, 1, 1)), key)
    assert abs(each.mean() - bound) < 5 * each.std() / 4000**0.5

    # with the exact q(s | x) the sum over s is ln P(x, y); that copy raises the bound, which stays below ln P(y)
    tied = elbo.Params(params.theta, params.psi._replace(chain=params.theta.chain))
    exact = np.sum(np.outer(weights, weights) * conditional_bound(tied, x, y)) / (2 * np.pi)
    line = np.linspace(-9, 9, 601)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"))
    evidence = np.log(np.exp(conditional_bound(tied, grid, y)).sum() * (line[1] - line[0]) ** 2)
    assert average < exact and bound + exact - average < evidence


@functools.cache
def linear_slope():
    """L of one sequence and its gradient in all parameters; compiled once for the tests that share it."""
    value = elbo.elbo(linear()[0])
    return jax.jit(jax.value_and_grad(lambda params, ys, key: value(params, ys, key).sum()))


def test_gradient_is_that_of_finite_differences(x64, key):
    """At a fixed key, in each number of the networks and of both HMMs."""
    _, params = linear()
    ys = jnp.asarray(np.random.default_rng(3).normal(size=(1, 3, 1)))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    slope, _ = jax.flatten_util.ravel_pytree(linear_slope()(params, ys, key)[1])
    step = 1e-5
    for i in range(flat.size):
        up, down = (linear_slope()(unravel(flat.at[i].add(d)), ys, key)[0] for d in (step, -step))
        np.testing.assert_allclose(slope[i], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


@functools.cache
def problem():
    """Frames in three dimensions around two far centres, each kept for some time; float32."""
    rng = np.random.default_rng(5)
    states = np.cumsum(rng.random((6, 12)) < 0.15, axis=1) % 2
    x = 2.0 * states[..., None] - 1 + 0.2 * rng.normal(size=(6, 12, 1))
    ys = np.concatenate([x, 2 * x, np.sin(x)], -1) + 0.1 * rng.normal(size=(6, 12, 3))
    ys = jnp.asarray(ys, jnp.float32)
    networks, params = hmm_vae.build(jax.random.key(0), ys, STATES, 1, hidden=(8,), likelihood="gaussian")
    model = hmm_vae.model(networks, STATES, "gaussian")
    return model, params, ys, networks, elbo.elbo(model)


def composed(model, rate, optimizer):
    """EM on the HMM, then a gradient step on the networks."""
    return optim.chain(
        optim.damp(model, optim.em_step(model, keep=True), rate),
        optim.restrict(optim.vae_step(model, optimizer), "theta.decoder", "psi.encoder"),
    )


@pytest.mark.parametrize("kind", ["composed", "gradient on everything"])
def test_rules_raise_the_bound(kind, key):
    model, params, ys, _, bound = problem()
    rule = {
        "composed": lambda: optim.minibatches(composed(model, 0.2, optax.adam(2e-2)), 4),
        "gradient on everything": lambda: optim.vae_step(model, optax.adam(2e-2)),
    }[kind]()
    run = optim.run(rule, params, ys, key=key, steps=30)
    before, after = (bound(p, jnp.tile(ys, (20, 1, 1)), jax.random.key(5)).mean() for p in (params, run.params))
    assert after > before + 5 and run.history.finite.all() and run.history.feasible.all()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(run.params))
    if kind == "composed":
        jax.tree.map(np.testing.assert_array_equal, run.params.psi.chain, run.params.theta.chain)


def test_states_from_clusters_of_the_means(key):
    """Networks of a plain VAE; the states then found on its means are those that made the data."""
    model, params, ys, networks, _ = problem()
    length = jnp.array([12, 12, 12, 12, 12, 5])
    data = elbo.Padded(ys.at[5, 5:].set(jnp.nan), length)
    x = hmm_vae.means(model, params, data)
    q = model.encoder(params.psi, ys[0]).outer
    np.testing.assert_allclose(x.values[0], q.mean(), rtol=1e-5)
    assert (x.values[5, 5:] == 0).all() and (x.length == length).all()
    new = hmm_vae.cluster(key, model, params, data, 2)
    jax.tree.map(np.testing.assert_array_equal, new.theta.chain, new.psi.chain)
    np.testing.assert_array_equal(new.theta.decoder.log_scale, params.theta.decoder.log_scale)
    near = np.argmin(np.abs(np.asarray(x.values) - np.asarray(new.theta.chain.emission.mean)[:, 0]), -1)
    truth = np.asarray(ys[..., 0] > 0)
    agree = np.mean((near == truth)[np.arange(12) < np.asarray(length)[:, None]])
    assert max(agree, 1 - agree) > 0.95


def test_m_step_is_optimal_at_the_same_samples(x64, key):
    """Rate 1: at the samples of x that the HMM was fitted to, the gradient in it of E_q ln P(s, x) is zero."""
    model, params, ys, _, _ = problem()
    params, ys = jax.tree.map(lambda a: a.astype(float), (params, ys))
    rule = optim.damp(model, optim.em_step(model, keep=True), 1.0)
    moved, _, info = rule.update(key, params, rule.init(params), ys)
    value = elbo.elbo(model)

    @jax.jit
    @jax.value_and_grad
    def energy(block):
        return value(elbo.Params(params.theta._replace(chain=block), params.psi), ys, key).sum()

    (low, before), (high, after) = energy(params.theta.chain), energy(moved.theta.chain)
    size = lambda g: max(float(jnp.abs(a).max()) for a in jax.tree.leaves(g))
    assert size(before) > 1 and size(after) < 1e-9 * size(before) and high > low
    np.testing.assert_allclose(info.elbo, low / ys.shape[0], rtol=1e-12)
    networks = lambda p: (p.theta.decoder, p.psi.encoder)
    jax.tree.map(np.testing.assert_array_equal, networks(moved), networks(params))


def test_padding_changes_nothing(x64, key):
    """Bound, gradient and statistics of a sequence, and of the same with NaN behind it."""
    model, params = linear()
    y = jnp.asarray(np.random.default_rng(4).normal(size=(1, 3, 1)))
    longer = elbo.Padded(jnp.concatenate([y, jnp.full((1, 2, 1), jnp.nan)], 1), jnp.array([3]))

    def everything(ys):
        return linear_slope()(params, ys, key), jax.jit(functools.partial(optim.expected_statistics, model))(
            params, ys, key=key
        )

    for a, b in zip(*(jax.tree.leaves(everything(ys)) for ys in (y, longer)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)

    @jax.jit
    def drawn(y):
        outer = model.encoder(params.psi, y).outer
        x = outer.sample(key)
        return x, outer.mode(), outer.log_prob(x)

    x, mode, log_prob = drawn(jax.tree.map(lambda a: a[0], longer))
    assert (x[3:] == 0).all() and (mode[3:] == 0).all() and np.isfinite(log_prob)


def test_unusable_sequences_are_dropped(key):
    """A NaN, a length of zero: the others give what they give alone."""
    model, params, ys, _, _ = problem()
    rule = optim.vae_step(model, optax.sgd(1e-2))
    step = lambda ys, lengths, weights: rule.update(
        key, params, rule.init(params), elbo.Padded(ys, jnp.array(lengths)), weights=jnp.array(weights)
    )
    moved, _, info = step(ys.at[1, 3].set(jnp.nan), [12, 12, 0, 12, 12, 5], jnp.ones(6))
    alone, _, _ = step(ys, [12, 12, 12, 12, 12, 5], [1.0, 0, 0, 1, 1, 1])
    assert info.dropped == 2 and not info.feasible
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved, alone)


def test_other_lengths_and_restarts_compile_nothing_new(key):
    model, params, ys, _, _ = problem()
    traces = []

    @jax.jit
    def step(starts, lengths):
        traces.append(1)
        rule = optim.em_step(model, keep=True)
        return jax.vmap(lambda p: rule.update(key, p, (), elbo.Padded(ys, lengths))[2].elbo)(starts)

    starts = jax.tree.map(lambda a: jnp.stack([a, a]), params)
    first, second = (step(starts, jnp.full(6, n)) for n in (12, 7))
    assert len(traces) == 1 and first.shape == (2,) and first[0] == first[1] and first[0] != second[0]


def test_samples_have_the_shapes_they_should(key):
    _, params, _, networks, _ = problem()
    states, x, decoded = hmm_vae.sample(key, networks, params.theta, 7)
    assert states.shape == (7,) and x.shape == (7, 1) and decoded.shape == (7, 3)
    np.testing.assert_allclose(decoded[2], networks.decode(params.theta.decoder.network, x[2]), rtol=1e-5)


def test_wrong_arguments_are_refused(key):
    with pytest.raises(ValueError, match=r"ys: got float32\[5, 3\]"):
        hmm_vae.build(key, jnp.zeros((5, 3)), 2, 1)
    with pytest.raises(ValueError, match="context: got -1"):
        hmm_vae.model(vae.Networks(None, None), 2, context=-1)
    with pytest.raises(ValueError, match="likelihood: got 'poisson'"):
        hmm_vae.model(vae.Networks(None, None), 2, "poisson")
