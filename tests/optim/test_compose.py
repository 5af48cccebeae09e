"""Rules made of rules do what their parts do, in order, and only where they may."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
import optim
from optim import Info, Rule

from ..problems import start


@pytest.fixture(scope="module")
def problem():
    model, params, ys = start("full")
    return optim.em_step(model), optim.eg_step(model, optax.adam(1e-2)), params, ys


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_chain_is_one_after_the_other(problem, key):
    em, eg, params, ys = problem
    rule = optim.chain(em, eg, em)
    state = rule.init(params)
    got, new_state, info = rule.update(key, params, state, ys)
    by_hand, _, _ = em.update(None, params, (), ys)
    by_hand, eg_state, _ = eg.update(None, by_hand, eg.init(by_hand), ys)
    by_hand, _, last = em.update(None, by_hand, (), ys)
    same(got, by_hand)
    same(new_state[1], eg_state)
    np.testing.assert_allclose(info.elbo, last.elbo, rtol=1e-5)
    with pytest.raises(ValueError, match="state: got 2 entries for 3"):
        rule.update(key, params, state[:2], ys)
    with pytest.raises(ValueError, match="rules: got none"):
        optim.chain()


def test_chain_and_repeat_report_what_went_wrong_in_any_part(key):
    def says(dropped, empty, finite):
        def update(key, params, state, ys, *, weights=None):
            info = Info(*map(jnp.asarray, (0.0, 0.0, dropped == 0, dropped, empty, finite)))
            return params, state, info

        return Rule(lambda params: (), update)

    params = elbo.Params(jnp.ones(()), ())
    info = optim.chain(says(2, 0, True), says(0, 3, False), says(0, 0, True)).update(key, params, ((),) * 3, None)[2]
    assert (int(info.dropped), int(info.empty), bool(info.finite), bool(info.feasible)) == (2, 3, False, False)


def test_repeat_is_that_many_calls(problem, key):
    _, eg, params, ys = problem
    rule = optim.repeat(eg, 3)
    got, state, info = rule.update(key, params, rule.init(params), ys)
    by_hand, by_hand_state = params, eg.init(params)
    for _ in range(3):
        by_hand, by_hand_state, last = eg.update(None, by_hand, by_hand_state, ys)
    same(got, by_hand)
    same(state, by_hand_state)
    np.testing.assert_allclose(info.elbo, last.elbo, rtol=1e-5)
    with pytest.raises(ValueError, match="times: got 0"):
        optim.repeat(eg, 0)


MASK = elbo.Params(theta=type(start("full")[1].theta)(weights=True, components=False), psi=False)


@pytest.mark.parametrize("where", [("theta.weights",), (MASK,)], ids=["name", "tree"])
def test_restrict_moves_only_what_is_named(problem, where):
    em, _, params, ys = problem
    free = em.update(None, params, (), ys)[0]
    rule = optim.restrict(em, *where)
    got = rule.update(None, params, rule.init(params), ys)[0]
    same(got.theta.weights, free.theta.weights)
    same(got.theta.components, params.theta.components)
    same(got.psi, params.psi)
    assert not np.allclose(free.theta.components.mean, params.theta.components.mean)


def test_restrict_by_several_names_and_by_a_leaf(problem):
    _, eg, params, ys = problem
    rule = optim.restrict(eg, "theta.components.mean", "psi")
    got = rule.update(None, params, rule.init(params), ys)[0]
    free = eg.update(None, params, eg.init(params), ys)[0]
    same(got.theta.components.mean, free.theta.components.mean)
    same(got.theta.components.root, params.theta.components.root)
    same(got.psi, free.psi)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (("theta.weight",), ValueError, "no part of the parameters is named 'theta.weight'.*theta.weights.logits"),
        ((), ValueError, "where: got nothing"),
        (({"theta": True},), ValueError, "not a prefix of the parameters"),
        ((elbo.Params(theta=1.0, psi=False),), TypeError, "Python bools"),
        ((elbo.Params(True, False), elbo.Params(True, False)), TypeError, "Python bools"),
    ],
)
def test_restrict_says_what_does_not_match(problem, where, error, message):
    em, _, params, _ = problem
    with pytest.raises(error, match=message):
        optim.restrict(em, *where).init(params)


def counting():
    """A rule whose state adds up weight times datum, and the number of calls."""

    def update(key, params, state, ys, *, weights=None):
        assert ys.shape == weights.shape
        total = jnp.sum(weights * ys)
        return params, (state[0] + total, state[1] + 1), Info(total, total)

    return Rule(lambda params: (jnp.zeros(()), 0), update)


@pytest.mark.parametrize(("count", "size"), [(12, 4), (13, 4), (3, 8), (5, 1)])
def test_minibatches_cover_each_datum_once(key, count, size):
    rule, params = optim.minibatches(counting(), size), elbo.Params(jnp.ones(()), ())
    ys = 2.0 ** jnp.arange(count)  # any datum left out or taken twice changes the sum
    weights = jnp.arange(1.0, count + 1)
    _, (total, calls), _ = rule.update(key, params, (jnp.zeros(()), 0), ys, weights=weights)
    np.testing.assert_allclose(total, np.sum(weights * ys))
    assert calls == -(-count // size)


def test_minibatches_draw_another_order_for_another_key(problem, key):
    _, eg, params, ys = problem
    rule = optim.minibatches(eg, 5)
    state = rule.init(params)
    first, second = (rule.update(k, params, state, ys)[0] for k in jax.random.split(key))
    again = rule.update(jax.random.split(key)[0], params, state, ys)[0]
    same(first, again)
    assert not np.allclose(first.theta.components.mean, second.theta.components.mean, rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match="key: got None"):
        rule.update(None, params, state, ys)
    with pytest.raises(ValueError, match="size: got 0"):
        optim.minibatches(eg, 0)


def test_minibatches_count_every_datum_that_was_dropped(problem, key):
    _, eg, params, ys = problem
    rule = optim.minibatches(eg, 5)
    bad = ys.at[jnp.array([0, 3, 7, 8, 15])].set(jnp.nan)
    info = rule.update(key, params, rule.init(params), bad)[2]
    assert int(info.dropped) == 5 and not bool(info.feasible)


@pytest.mark.parametrize("name", ["em", "eg", "vem", "vae", "chain", "repeat", "restrict", "minibatches"])
def test_every_rule_has_the_signature_of_the_protocol(problem, name):
    em, eg, params, _ = problem
    model = start("full")[0]
    rule = {
        "em": em,
        "eg": eg,
        "vem": optim.vem_step(model, optax.sgd(0.1)),
        "vae": optim.vae_step(model, optax.sgd(0.1)),
        "chain": optim.chain(em, eg),
        "repeat": optim.repeat(em, 2),
        "restrict": optim.restrict(em, "theta"),
        "minibatches": optim.minibatches(em, 2),
    }[name]
    assert isinstance(rule, Rule)
    expected = inspect.signature(optim.Update.__call__).parameters
    got = inspect.signature(rule.update).parameters
    assert [(p.name, p.kind, p.default) for p in got.values()] == [
        (p.name, p.kind, p.default) for p in expected.values() if p.name != "self"
    ]
    assert list(inspect.signature(rule.init).parameters) == ["params"]
