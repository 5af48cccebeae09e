"""What is asked of HMMs: every emission through every function, inference, samples, restarts, wrong data named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, hmm_inference
from elbo.models.families import Categorical, Normal

from .hmms import KINDS, LENGTHS, MODEL, REGRESSION, START, STEPS, emission, evidence, problem, rng, values


@pytest.mark.parametrize(("kind", "start"), [*((k, "free") for k in (*KINDS, "regression")), ("poisson", "stationary")])
def test_every_emission_goes_through_every_function(kind, start, key):
    """Traced, not compiled: shapes and types; what the numbers are is tested elsewhere."""
    family, data, inputs = emission(kind) if kind in KINDS else REGRESSION, values(kind), None
    if kind == "regression":
        data, inputs = hmm.Frames(data, data[..., :1]), data[0, :, :1]
    model = hmm.model(3, start=start)
    ys = elbo.Padded(data, jnp.asarray(LENGTHS))

    def everything(key):
        params = hmm.init(key, ys, 3, family=family, start=start)
        states, drawn = hmm.sample(key, params.theta, 20, inputs=inputs)
        questions = [f(model, params, ys) for f in (hmm_inference.smooth, hmm_inference.decode)]
        questions += [f(model, params, ys) for f in (hmm_inference.filter, hmm_inference.predict)]
        return params, states, drawn, elbo.evidence(model)(params, ys), questions

    params, states, drawn, log_p, (smoothed, decoded, filtered, predicted) = jax.eval_shape(everything, key)
    frames = data.values if kind == "regression" else data
    shapes = [a.shape for a in (states, drawn, log_p, smoothed, decoded.states, filtered, predicted)]
    assert shapes == [(20,), frames.shape[1:], (4,), (4, 20, 3), (4, 20), (4, 20, 3), (4, 3)]
    assert jax.tree.structure(params.theta.emission) == jax.tree.structure(family)
    assert jax.tree.map(jnp.shape, params.theta.emission) == jax.tree.map(jnp.shape, family)
    assert (params.theta.initial is None) == (start == "stationary")


def test_mixtures_start_and_are_drawn(key):
    """Two clusters in each of two states: found by k-means in k-means, and what is drawn has their means."""
    centres = jnp.array([[0.0, 2.0], [20.0, 26.0]])[..., None]
    family = hmm.MixtureEmission(Categorical(jnp.zeros((2, 2))), Normal.create(centres, jnp.ones((2, 2, 1))))
    uneven = family._replace(weights=Categorical.create(jnp.array([[0.75, 0.25], [0.5, 0.5]])))
    theta = hmm.Theta(Categorical(jnp.zeros(2)), hmm.sticky(2), uneven)
    start, ys = jax.jit(
        lambda k: (lambda ys: (hmm.init(k, ys, 2, family=family), ys))(hmm.sample(k, theta, 4000)[1][None])
    )(key)
    found = start.theta.emission
    order = np.argsort(np.asarray(found.components.mean).ravel())
    np.testing.assert_allclose(np.asarray(found.components.mean).ravel()[order], [0, 2, 20, 26], atol=1.0)
    assert abs(np.asarray(ys)[ys < 10].mean() - 0.5) < 0.1 and abs(np.asarray(ys)[ys > 10].mean() - 23) < 0.3
    np.testing.assert_allclose(found.weights.probabilities().sum(-1), 1, rtol=1e-5)


def test_inference(x64):
    model, params, ys = problem("full")
    longer = elbo.Padded(jnp.pad(ys.values, ((0, 0), (0, 1), (0, 0)), constant_values=jnp.nan), ys.length + 1)
    holes = elbo.Padded(longer.values.at[jnp.arange(4), ys.length].set(jnp.nan), longer.length)

    @jax.jit
    def everything(params, ys, holes):
        each = [f(model, params, ys) for f in (hmm_inference.smooth, hmm_inference.filter, hmm_inference.predict)]
        return *each, hmm_inference.smooth(model, params, holes), hmm_inference.decode(model, params, ys)

    smoothed, filtered, predicted, after, decoded = jax.device_get(everything(params, ys, holes))
    for n, length in enumerate(LENGTHS):
        np.testing.assert_allclose(filtered[n, length - 1], smoothed[n, length - 1], rtol=1e-9)
        np.testing.assert_allclose(filtered[n, :length].sum(-1), 1, rtol=1e-12)
        assert (filtered[n, length:] == 0).all() and (smoothed[n, length:] == 0).all()
    np.testing.assert_allclose(predicted, after[np.arange(4), LENGTHS], rtol=1e-9)
    assert (decoded.states[1] == -1).sum() == 19 and (decoded.score < evidence(params, ys)).all()
    truth = np.asarray(decoded.states)
    names = hmm_inference.match((truth + 1) % 3 * (truth >= 0) - (truth < 0), truth)
    assert names.tolist() == [2, 0, 1]


def test_sample_follows_the_model(x64, key):
    _, params, _ = problem("poisson")
    theta = params.theta
    draw = jax.jit(jax.vmap(lambda k: hmm.sample(k, theta, 3)))
    states, counts = jax.device_get(draw(jax.random.split(key, 20_000)))
    np.testing.assert_allclose(np.bincount(states[:, 0]) / 20_000, START, atol=0.015)
    np.testing.assert_allclose(np.bincount(states[:, 2]) / 20_000, START @ STEPS @ STEPS, atol=0.015)
    means = [counts[states == k].mean() for k in range(3)]
    np.testing.assert_allclose(means, [1.0, 5.0, 9.0], rtol=0.03)


def test_restarts_by_vmap(key):
    ys = elbo.Padded(values("categorical"), jnp.asarray(LENGTHS))
    family = Categorical(jnp.zeros((3, 6)))
    rule = optim.em_step(MODEL)

    @jax.jit
    def fitted(keys):
        starts = jax.vmap(lambda k: hmm.init(k, ys, 3, family=family))(keys)
        runs = jax.vmap(lambda p: optim.run(rule, p, ys, steps=20))(starts)
        return runs, optim.best(runs), jax.vmap(lambda p: jnp.mean(evidence(p, ys)))(runs.params)

    runs, chosen, final = fitted(jax.random.split(key, 4))
    np.testing.assert_allclose(jnp.mean(evidence(chosen.params, ys)), final.max(), rtol=1e-6)
    assert (runs.history.elbo[:, -1] > runs.history.elbo[:, 0]).all()


def test_lengths_do_not_recompile(key):
    _, params, ys = problem("full")
    params, ys = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype.kind == "f" else a, (params, ys))
    traces = []

    def emit(emission, value):
        traces.append(None)
        return emission.log_prob(value)

    rule = optim.em_step(hmm.model(3, emit))
    rule.update(None, params, (), ys)
    first = len(traces)
    for shift in (1, 2):
        rule.update(None, params, (), elbo.Padded(ys.values, jnp.maximum(ys.length - shift, 1)))
    assert len(traces) == first


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda model, theta, ys: hmm_inference.decode(model, elbo.Params(theta), ys[0, :, 0]),
            r"y: got .* one sequence.* ys\[None\]",
        ),
        (
            lambda model, theta, ys: hmm_inference.smooth(model, elbo.Params(theta), list(ys)),
            r"ys: got a list .* elbo.Padded",
        ),
        (lambda model, theta, ys: elbo.evidence(model)(elbo.Params.tied(theta), list(ys)), "ys: got a list"),
        (
            lambda model, theta, ys: hmm_inference.filter(model, theta, ys),
            r"params: got Theta.* elbo\.Params",
        ),
        (lambda model, theta, ys: hmm.init(jax.random.key(0), ys[0, :, 0], 3), r"y: got float64\[\]"),
        (lambda model, theta, ys: hmm.init(jax.random.key(0), ys[..., 0], 3), r"frames float64.*ys\[\.\.\., None\]"),
        (lambda model, theta, ys: hmm.init(jax.random.key(0), list(ys), 3), "ys: got a list"),
        (lambda model, theta, ys: hmm.init(jax.random.key(0), ys, 2, family=theta.emission), r"family: .*\[3\]"),
        (lambda model, theta, ys: hmm.sample(jax.random.key(0), theta._replace(emission=ys), 3), "no method sample"),
        (lambda model, theta, ys: hmm.sample(jax.random.key(0), theta, 0), "frames: got 0"),
    ],
)
def test_wrong_data_are_named(ask, message, x64):
    model, params, ys = problem("diagonal")
    with pytest.raises((ValueError, TypeError), match=message):
        ask(model, params.theta, ys.values)


def test_narrow_integers_are_read_as_wide_ones(x64):
    wide = jnp.array([[0, 200, 255, 3]])
    theta = hmm.Theta(Categorical(jnp.zeros(3)), hmm.sticky(3), Categorical(jnp.asarray(rng.normal(size=(3, 256)))))
    narrow = wide.astype(jnp.uint8)
    np.testing.assert_array_equal(*(evidence(elbo.Params.tied(theta), ys) for ys in (wide, narrow)))
    starts = [hmm.init(jax.random.key(0), ys, 3, family=theta.emission) for ys in (wide, narrow)]
    jax.tree.map(np.testing.assert_array_equal, *starts)


def test_wrong_requests_are_named(key):
    with pytest.raises(ValueError, match="start: got 'fixed'"):
        hmm.model(2, start="fixed")
    with pytest.raises(ValueError, match=r"ys: got frames int32\[2, 5\].*Categorical"):
        hmm.init(key, jnp.zeros((2, 5), jnp.int32), 2)
    with pytest.raises(ValueError, match="reference: got 1 labels for 2 states"):
        hmm_inference.match([0, 1], [0])
