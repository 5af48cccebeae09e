"""Closed-form steps from running averages: moments by hand, a rise to where EM goes, rare components, compositions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Categorical, MultivariateNormal, Normal

pytestmark = pytest.mark.usefixtures("x64")
MODEL = mixture.model(2)


def problem(family):
    ys = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)) + np.repeat([[0.0, 0], [3, 1]], 20, 0))
    mean = jnp.array([[0.5, 0.0], [1.0, 1.0]])
    components = {
        "diagonal": Normal.create(mean, jnp.ones((2, 2))),
        "full": MultivariateNormal.create(mean, jnp.tile(jnp.eye(2), (2, 1, 1))),
    }[family]
    theta = mixture.Theta(Categorical.create(jnp.array([0.4, 0.6])), components)
    return elbo.Params.tied(theta), ys


def step(params, ys, rate):
    rule = optim.damp(MODEL, optim.em_step(MODEL), rate)
    return rule.update(None, params, rule.init(params), ys)[0]


def moments(theta):
    mean = theta.components.mean
    square = theta.components.scale() ** 2 if isinstance(theta.components, Normal) else theta.components.covariance()
    outer = mean**2 if square.ndim == 2 else mean[:, :, None] * mean[:, None]
    return theta.weights.probabilities(), mean, square + outer


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_the_first_step_averages_moments_with_those_of_the_start(family):
    params, ys = problem(family)
    whole, part = step(params, ys, 1.0), step(params, ys, 0.3)
    old, new, got = (moments(p.theta) for p in (params, whole, part))
    for a, b, c in zip(old, new, got, strict=True):
        np.testing.assert_allclose(c, 0.7 * a + 0.3 * b, rtol=1e-10, atol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, part.psi, part.theta)


def test_later_steps_average_the_moments_of_all_batches():
    """With rates 1/t, also where someone else moved the parameters in between."""
    params, ys = problem("diagonal")
    rule = optim.damp(MODEL, optim.em_step(MODEL), lambda t: 1 / (t + 1))
    state, counts, sums, squares = rule.init(params), 0, 0, 0
    posterior = jax.jit(jax.vmap(lambda psi, y: MODEL.encoder(psi, y).mean(), (None, 0)))
    for batch in (ys[::2], ys[1::2], ys[::3]):
        r = posterior(params.theta, batch) / len(batch)
        counts, sums, squares = counts + r.sum(0), sums + r.T @ batch, squares + r.T @ batch**2
        params, state, _ = rule.update(None, params, state, batch, weights=jnp.full(len(batch), 1 / len(batch)))
        got = params.theta
        np.testing.assert_allclose(got.weights.probabilities(), counts / counts.sum(), rtol=1e-6)
        np.testing.assert_allclose(got.components.mean, sums / counts[:, None], rtol=1e-6)
        np.testing.assert_allclose(moments(got)[2], squares / counts[:, None], rtol=1e-6)
        moved = Normal.create(got.components.mean + 0.3, 1.5 * got.components.scale())
        params = elbo.Params(got._replace(components=moved), params.psi)


def test_evidence_rises_to_where_em_goes_at_any_rate():
    params, ys = problem("diagonal")
    em, rates = optim.em_step(MODEL), jnp.array([0.05, 0.5, 1.0])
    runs = jax.vmap(lambda rate: optim.run(optim.damp(MODEL, em, rate), params, ys, steps=60))(rates)  # traced rates
    whole = optim.run(em, params, ys, steps=60)
    assert (np.diff(runs.history.elbo) > -1e-12).all()
    np.testing.assert_allclose(runs.history.elbo[1:, -1], whole.history.elbo[-1], atol=1e-3)
    np.testing.assert_allclose(runs.history.elbo[2], whole.history.elbo, rtol=1e-10)


def test_a_rare_component_stays_where_it_is():
    """Two in a hundred data, fewer than one a batch; epochs that begin with a new state. Means over 16 orders."""
    rng = np.random.default_rng(0)
    ys = jnp.asarray(np.where(rng.random(10_000) < 0.02, 4.0, 0.0)[:, None] + rng.standard_normal((10_000, 1)))
    f = Normal.create(jnp.array([[0.0], [4.0]]), jnp.ones((2, 1)), floor=1e-3)
    theta = mixture.Theta(Categorical.create(jnp.array([0.98, 0.02])), f)
    em = optim.em_step(MODEL)
    best = optim.run(em, elbo.Params.tied(theta), ys, steps=100).params
    rule = optim.minibatches(optim.damp(MODEL, em, 0.05), 32)
    keys = jax.random.split(jax.random.key(0), 16)
    ends = jax.vmap(lambda key: rule.update(key, best, rule.init(best), ys)[0].theta)(keys)
    mean, scale = ends.components.mean[..., 0], ends.components.scale()[..., 0]
    # 25 data of the component in the average: a standard deviation of 0.2, of the mean over the orders 0.05
    np.testing.assert_allclose(mean.mean(0), best.theta.components.mean[:, 0], atol=0.2)
    assert mean.std(0)[1] < 0.4 and scale.min() > 0.5


RULES = {"em": optim.em_step(MODEL), "vem": optim.vem_step(MODEL, optax.sgd(0.1))}
GRADIENT = optim.eg_step(MODEL, optax.sgd(1e-3))


def damped(rule):
    return optim.damp(MODEL, rule, 0.3)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_around_or_within_other_rules_it_is_the_same(rule, key):
    params, ys = problem("diagonal")

    def composed(r):
        return optim.minibatches(optim.chain(optim.repeat(optim.restrict(r, "theta.weights", "psi"), 2), GRADIENT), 8)

    results = []
    for r in (damped(composed(rule)), composed(damped(rule)), optim.restrict(damped(composed(rule)), "theta", "psi")):
        new, state, info = r.update(key, params, r.init(params), ys)
        assert bool(info.finite) and np.isfinite(info.elbo)
        results.append((new, state))
    jax.tree.map(np.testing.assert_array_equal, *results[:2])
    jax.tree.map(np.testing.assert_array_equal, *results[1:])


def test_only_what_moves_is_averaged():
    params, ys = problem("diagonal")
    rule = optim.restrict(damped(RULES["em"]), "theta.weights")
    state = rule.init(params)
    assert len(jax.tree.leaves(state.families)) == 1
    new = rule.update(None, params, state, ys)[0]
    jax.tree.map(np.testing.assert_array_equal, new.theta.components, params.theta.components)
    assert not np.allclose(new.theta.weights.logits, params.theta.weights.logits)


@pytest.mark.parametrize("rate", [0.0, 1.5, float("nan"), np.ones(2)])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(ValueError, match="rate: got"):
        optim.damp(MODEL, optim.em_step(MODEL), rate)


def test_a_wrong_rate_that_is_traced_is_reported_and_nothing_moves():
    params, ys = problem("diagonal")
    rule = optim.damp(MODEL, optim.em_step(MODEL), lambda t: 0.3 + 2.0 * t)
    first = rule.update(None, params, rule.init(params), ys)
    second = rule.update(None, *first[:2], ys)
    assert bool(first[2].finite) and not bool(second[2].finite)
    jax.tree.map(np.testing.assert_array_equal, second[:2], first[:2])


def test_what_cannot_be_damped_is_refused():
    params, _ = problem("diagonal")
    with pytest.raises(TypeError, match="no closed-form M step to be damped"):
        optim.damp(MODEL, GRADIENT, 0.1)
    with pytest.raises(ValueError, match="damped already"):
        damped(optim.chain(damped(RULES["em"]), GRADIENT))

    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Coin:  # a family of one's own, with what an M step needs and no more
        bias: jax.Array
        tap: object = None
        zero_statistics = maximize = log_likelihood = empty = lambda self, *args: ()

    rule = damped(optim.em_step(MODEL))
    with pytest.raises(TypeError, match="Coin has no method rebase and no method expected"):
        rule.init(elbo.Params(Coin(jnp.zeros(1)), Coin(jnp.zeros(1))))
