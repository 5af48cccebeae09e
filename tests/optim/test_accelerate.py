"""Accelerated rules: the same end in fewer evaluations, and no step down, over a thousand random problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Categorical, Poisson

from ..problems import PROBLEMS, SMALL, arrays, stack
from .test_monotone import draw

DEATHS = jnp.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1.0])  # Hasselblad 1969, days with 0 to 9 deaths
COUNTS = jnp.arange(10.0)[:, None]
OPTIMUM = -1989.945859883
BATCH, STEPS = 84, 30


def deaths():
    theta = mixture.Theta(Categorical.create(jnp.array([0.3, 0.7])), Poisson.create(jnp.array([[1.0], [2.5]])))
    return optim.em_step(mixture.model(2)), elbo.Params.tied(theta)


def climb(rule, params, ys, steps, weights=None):
    """`Info` of the steps, and the state after each."""

    def step(carry, _):
        params, state, info = rule.update(None, *carry, ys, weights=weights)
        return (params, state), (info, state.evaluations)

    return jax.jit(lambda params: jax.lax.scan(step, (params, rule.init(params)), length=steps))(params)


@pytest.mark.parametrize(("method", "most"), [("anderson", 30), ("squarem", 400)])
def test_two_poissons(x64, method, most):
    """Plain EM takes thousands of steps here."""
    rule, start = deaths()
    (params, _), (info, evaluations) = climb(optim.accelerate(rule, method=method), start, COUNTS, most, DEATHS)
    value = info.objective * jnp.sum(DEATHS)
    assert evaluations[jnp.argmax(value > OPTIMUM - 1e-8)] <= most
    np.testing.assert_allclose(value[-1], OPTIMUM, atol=1e-8)
    assert jnp.all(jnp.diff(value) >= -1e-10)
    if method == "anderson":
        np.testing.assert_allclose(params.theta.components.rate()[:, 0], [1.2560951, 2.6634044], atol=1e-4)


def test_evaluations_are_counted():
    rule, start = deaths()
    calls = []

    def update(key, params, state, ys, *, weights=None):
        jax.debug.callback(lambda: calls.append(1))
        return rule.update(key, params, state, ys, weights=weights)

    counting = optim.accelerate(optim.Rule(lambda params: (), update))
    (_, state), _ = climb(counting, start, COUNTS, 20, DEATHS)
    jax.effects_barrier()
    assert len(calls) == state.evaluations >= 21


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_step_down_in_a_thousand_problems(x64, name):
    rng = np.random.default_rng(7)
    model = PROBLEMS[name].model(SMALL)
    *problems, bounded = stack([draw(name, SMALL, "data", rng) for _ in range(BATCH)])

    def run(params, ys, weights, prior):
        rule = optim.accelerate(optim.em_step(model, prior=prior, chunk_size=None))
        return climb(rule, params, ys, STEPS, weights)[1][0]

    info = jax.jit(jax.vmap(run))(*arrays(tuple(problems), float))
    assert info.finite.all()
    before, after = info.objective[:, :-1], info.objective[:, 1:]
    fall = np.max((before - after) / np.maximum(1, np.abs(before)), 1)
    assert np.all(fall <= np.where(bounded, 1e-12, 1e-5)), np.max(fall)


def test_there_are_a_thousand_problems():
    assert BATCH * len(PROBLEMS) >= 1000


def test_a_member_of_a_batch_is_what_it_is_alone(x64):
    rule, start = deaths()
    fast = optim.accelerate(rule)
    weights = DEATHS * jax.random.uniform(jax.random.key(0), (4, 10), minval=0.5, maxval=1.5)
    together = jax.vmap(lambda w: optim.run(fast, start, COUNTS, steps=12, weights=w))(weights)
    alone = [optim.run(fast, start, COUNTS, steps=12, weights=w).final.objective for w in weights]
    np.testing.assert_allclose(together.final.objective, alone, rtol=1e-12)


def test_it_composes():
    rule, start = deaths()
    part = optim.restrict(optim.accelerate(rule), "theta.components")
    kept = optim.run(part, start, COUNTS, steps=5, weights=DEATHS).params.theta
    np.testing.assert_array_equal(kept.weights.logits, start.theta.weights.logits)
    assert not np.array_equal(kept.components.log_rate, start.theta.components.log_rate)
    both = optim.chain(rule, optim.accelerate(optim.repeat(rule, 2)))
    result = optim.run(both, start, COUNTS, steps=10, weights=DEATHS)
    assert result.params.theta.components.log_rate.dtype == start.theta.components.log_rate.dtype
    assert result.final.objective > result.history.objective[0]


def test_half_precision():
    model, key = mixture.model(2), jax.random.key(0)
    ys = jnp.concatenate([jax.random.normal(key, (40, 1)), 3 + jax.random.normal(key, (30, 1))])
    start = jax.tree.map(lambda a: a.astype(jnp.bfloat16), mixture.init(key, ys, 2))
    rule = optim.em_step(model)
    ends = [optim.run(r, start, ys, steps=15) for r in (rule, optim.accelerate(rule))]
    assert ends[1].params.theta.components.mean.dtype == jnp.bfloat16
    np.testing.assert_allclose(ends[1].final.elbo, ends[0].final.elbo, rtol=0.02)
    assert jnp.isfinite(optim.rate(model, ends[1].params, ys).values[0])


def test_a_bad_datum_is_dropped_as_without(x64):
    rule, start = deaths()
    bad = COUNTS.at[3].set(jnp.nan)
    result = optim.run(optim.accelerate(rule), start, bad, steps=40, weights=DEATHS)
    expected = optim.run(rule, start, bad, steps=4000, weights=DEATHS)
    assert result.final.dropped == expected.final.dropped == 1
    assert result.final.objective >= expected.final.objective - 1e-8


@pytest.mark.parametrize(
    ("rule", "kind", "message"),
    [
        (lambda r, m: optim.accelerate(r, method="fast"), ValueError, "method"),
        (lambda r, m: optim.accelerate(r, memory=0), ValueError, "memory"),
        (lambda r, m: optim.accelerate(m), TypeError, "rule"),
        (lambda r, m: optim.accelerate(optim.damp(m, r, 0.5)), TypeError, "has a state"),
    ],
)
def test_what_cannot_be_accelerated(rule, kind, message):
    em, start = deaths()
    with pytest.raises(kind, match=message):
        rule(em, mixture.model(2)).init(start)
