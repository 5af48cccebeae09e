"""Rules made of rules do what their parts do, in order, and only where they may."""

import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Bernoulli, PseudoData
from elbo.optim import Info, Rule

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
def test_restrict_moves_only_what_is_named_and_the_exact_posterior_follows(problem, where):
    em, _, params, ys = problem
    free = em.update(None, params, (), ys)[0]
    rule = optim.restrict(em, *where)
    got = rule.update(None, params, rule.init(params), ys)[0]
    same(got.theta.weights, free.theta.weights)
    same(got.theta.components, params.theta.components)
    same(got.psi, got.theta)
    assert not np.allclose(free.theta.components.mean, params.theta.components.mean)


def test_restrict_by_several_names_and_by_a_leaf(problem):
    _, eg, params, ys = problem
    rule = optim.restrict(eg, "theta.components.mean", "psi")
    got = rule.update(None, params, rule.init(params), ys)[0]
    free = eg.update(None, params, eg.init(params), ys)[0]
    same(got.theta.components.mean, free.theta.components.mean)
    same(got.theta.components.root, params.theta.components.root)
    same(got.psi, got.theta)


def test_half_of_a_family_is_refused_where_its_step_is_closed_form(problem):
    em, eg, params, ys = problem
    with pytest.raises(ValueError, match="a part of the family theta.components"):
        optim.restrict(optim.chain(eg, em), "theta.components.mean").init(params)
    whole = optim.restrict(em, "theta.components.mean", "theta.components.root")  # the floor is no parameter
    same(whole.update(None, params, (), ys)[0].theta.components, em.update(None, params, (), ys)[0].theta.components)


OPTIMIZERS = {
    "line search": optax.lbfgs(),
    "clipped": optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0)),
    "moments": optax.adam(1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_gradient_step_knows_nothing_but_what_moves(optimizer, x64):
    model, params, ys = start("normal")

    def log_joint(weights, z, y):
        return model.log_joint(params.theta._replace(weights=weights), z, y)

    alone = optim.eg_step(elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2))), optimizer)
    part = optim.restrict(optim.eg_step(model, optimizer), "theta.weights")
    weights = params.theta.weights
    expected = optim.run(alone, elbo.Params.tied(weights), ys, steps=5)
    got = optim.run(part, params, ys, steps=5)
    same(got.params.theta.weights, expected.params.theta)
    same(jax.tree.leaves(got.state), jax.tree.leaves(expected.state))
    np.testing.assert_allclose(got.history.objective, expected.history.objective, rtol=1e-9)


def test_what_a_family_calls_fixed_is_no_parameter_of_an_optimiser(problem):
    """Else its weight decay would count in the norm that a step is clipped to."""
    model, params, _ = start("full")
    for step, copies in ((optim.eg_step, 1), (optim.vae_step, 2)):
        moments = step(model, optax.adam(1e-2)).init(params)[0].mu
        assert len(jax.tree.leaves(moments)) == 3 * copies  # logits, means, roots


def test_restrict_reaches_into_rules_of_rules_and_twice(problem, key):
    _, _, params, ys = problem
    eg = optim.eg_step(start("full")[0], optax.adam(1e-2))
    inside = optim.minibatches(optim.repeat(optim.restrict(eg, "theta.weights"), 2), 8)
    outside = optim.restrict(optim.minibatches(optim.repeat(eg, 2), 8), "theta.weights", "psi")
    twice = optim.restrict(optim.restrict(optim.minibatches(optim.repeat(eg, 2), 8), "theta"), "theta.weights")
    want, state, _ = inside.update(key, params, inside.init(params), ys)
    assert len(jax.tree.leaves(state[0].mu)) == 1
    for rule in (outside, twice):
        got, other, _ = rule.update(key, params, rule.init(params), ys)
        same((got, other), (want, state))


def test_where_nothing_moves_the_optimiser_is_not_asked(problem):
    _, _, params, ys = problem
    model = start("full")[0]
    for step in (optim.eg_step, optim.vem_step):
        rule = optim.restrict(step(model, optax.lbfgs()), "psi" if step is optim.eg_step else "theta.weights")
        got, _, info = rule.update(None, params, rule.init(params), ys)
        same(got.theta.components, params.theta.components)
        assert bool(info.finite) and np.isfinite(info.elbo)


def test_a_rule_of_ones_own_is_masked(key):
    def update(key, params, state, ys, *, weights=None):
        return jax.tree.map(lambda a: a + 1, params), state + 1, Info(elbo=0.0, objective=0.0)

    rule = optim.restrict(optim.repeat(Rule(lambda params: 0, update), 2), "theta.a")
    params = elbo.Params({"a": jnp.zeros(()), "b": jnp.zeros(())}, jnp.zeros(()))
    got, state, _ = rule.update(None, params, rule.init(params), None)
    same(got, elbo.Params({"a": 2.0, "b": 0.0}, 0.0))
    assert state == 2


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


def collecting(count):
    """A rule whose state adds up the weights that each datum came with, and the sums of weights of the batches."""

    def update(key, params, state, ys, *, weights=None):
        assert ys.shape == weights.shape
        seen, sums = state
        return params, (seen.at[ys].add(weights), sums.at[jnp.argmin(sums)].set(jnp.sum(weights))), Info(0.0, 0.0)

    return Rule(lambda params: (jnp.zeros(count), jnp.zeros(count)), update)


@pytest.mark.parametrize("zeros", [0, 3])
@pytest.mark.parametrize(("count", "size"), [(12, 4), (13, 4), (3, 8), (5, 1)])
def test_each_datum_comes_once_and_each_batch_stands_for_the_whole(key, count, size, zeros):
    rule, params = optim.minibatches(collecting(count + zeros), size), elbo.Params(jnp.ones(()), ())
    ys = jnp.arange(count + zeros)
    weights = jnp.where(ys < count, 2.0, 0.0)  # data of weight 0 are not there
    got = rule.update(key, params, rule.init(params), ys, weights=weights if zeros else None)[1]
    batches, whole = -(-count // size), (2 if zeros else 1) * count
    np.testing.assert_allclose(got[1], np.where(np.arange(count + zeros) < batches, whole, 0), rtol=1e-6)
    times = np.asarray(got[0][:count]) / (whole / count)
    last = count - size * (batches - 1)
    expected = np.sort(np.repeat([count / size, count / last], [count - last, last]))
    np.testing.assert_allclose(np.sort(times), expected, rtol=1e-6)
    assert not np.any(got[0][count:])


def log_joint(theta, z, y):
    return jnp.dot(z, theta.log_prob(y))


# a coin with a prior; its parameter is one number. The rules are shared, so that programs are.
COIN = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(1)))
PRIOR = PseudoData(Bernoulli(np.zeros((1, 1))), 10.0)
EM = optim.em_step(COIN, prior=PRIOR)
PLAIN = optim.damp(COIN, EM, lambda t: 1 / (t + 1))  # the mean over all batches
CLOSED = [
    optim.minibatches(PLAIN, 4),
    optim.minibatches(optim.damp(COIN, optim.vem_step(COIN, optax.sgd(0.1), prior=PRIOR), lambda t: 1 / (t + 1)), 4),
]
ASCENTS = [step(COIN, optax.sgd(1e-7), prior=PRIOR) for step in (optim.eg_step, optim.vae_step)]
PASSES = [optim.minibatches(rule, 4) for rule in ASCENTS]
KINDS = ["weighted", "weightless", "dropped"]


def tosses(kind):
    """Parameters, and data of unequal weights, of which some may be padding or junk."""
    family = Bernoulli.create(jnp.array([[0.5]]))
    ys = (jnp.arange(40) % 5 == 0).astype(float)[:, None]
    weights = jnp.where(ys[:, 0] > 0, 3.0, 1.0)
    if kind == "weightless":
        ys, weights = jnp.concatenate([ys, jnp.full((7, 1), jnp.nan)]), jnp.concatenate([weights, jnp.zeros(7)])
    if kind == "dropped":
        ys = ys.at[:9].set(jnp.nan)
    return elbo.Params.tied(family), ys, weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_is_counted_once_by_closed_form_steps_on_minibatches(key, kind, x64):
    params, ys, weights = tosses(kind)
    best = EM.update(None, params, (), ys, weights=weights)[0].theta
    for rule in CLOSED:
        got, _, info = rule.update(key, params, rule.init(params), ys, weights=weights)
        np.testing.assert_allclose(got.theta.logits, best.logits, rtol=1e-7)
        assert int(info.dropped) == (9 if kind == "dropped" else 0)
        np.testing.assert_allclose(info.weight, jnp.sum(jnp.where(jnp.isnan(ys[:, 0]), 0, weights)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_is_counted_once_by_gradient_steps_on_minibatches(key, kind, x64):
    """Tiny steps: their sum over a pass is that of as many steps on all data, whose size is one over the weight."""
    params, ys, weights = tosses(kind)
    for rules in zip(ASCENTS, PASSES, strict=True):
        (one, _, info), (many, _, mean) = (
            rule.update(key, params, rule.init(params), ys, weights=weights) for rule in rules
        )
        share = info.weight / jnp.sum(weights)
        step, pass_ = (new.theta.logits - params.theta.logits for new in (one, many))
        np.testing.assert_allclose(pass_, 10 * step * share, rtol=1e-5)
        np.testing.assert_allclose(mean.elbo, info.elbo, rtol=1e-5)
        np.testing.assert_allclose(mean.objective - mean.elbo, (info.objective - info.elbo) * share, rtol=1e-5)


def test_ones_own_loop_says_how_large_the_whole_is(x64):
    params, ys, _ = tosses("weighted")
    best, state = EM.update(None, params, (), ys)[0].theta, PLAIN.init(params)
    for batch in ys.reshape(5, 8, 1):
        params, state, _ = PLAIN.update(None, params, state, batch, weights=jnp.full(8, 40 / 8))
    np.testing.assert_allclose(params.theta.logits, best.logits, rtol=1e-7)


def test_the_count_of_a_prior_may_be_traced():
    params, ys, _ = tosses("weighted")

    def em(count):
        return optim.em_step(COIN, prior=PseudoData(params.theta, count)).update(None, params, (), ys)[0]

    got = jax.vmap(em)(jnp.array([0.0, 10.0])).theta.probabilities()[:, 0, 0]
    np.testing.assert_allclose(got, [8 / 40, (8 + 5) / 50], rtol=1e-6)
    with pytest.raises(ValueError, match="count: got -1.0, expected a number of imaginary data"):
        em(-1.0)


def test_a_batch_without_data_moves_nothing(key, x64):
    params, ys, weights = tosses("weighted")
    momentum = optim.eg_step(COIN, optax.sgd(1.0, momentum=0.9), prior=PRIOR)
    rules = {"em": EM, "damped": PLAIN, "momentum": momentum, "minibatches": optim.minibatches(EM, 8)}
    for name, rule in rules.items():
        for data, w in ((jnp.full_like(ys, jnp.nan), weights), (ys, 0 * weights)):
            got, _, info = rule.update(key, params, rule.init(params), data, weights=w)
            np.testing.assert_array_equal(got.theta.logits, params.theta.logits, err_msg=name)
            assert int(info.dropped) == (0 if data is ys else 40) and np.isnan(info.elbo) and info.weight == 0


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, em, adam: optim.em_step(em), "model: got Rule, expected an elbo.Model"),
        (lambda model, em, adam: optim.vae_step(adam, model), "model: got an optax optimiser"),
        (lambda model, em, adam: optim.eg_step(model, em), "optimizer: got Rule, expected an optax optimiser"),
        (lambda model, em, adam: optim.chain(em, adam), r"rules\[1\]: got an optax optimiser.*eg_step"),
        (lambda model, em, adam: optim.repeat(model, 2), "rule: got Model.*em_step"),
        (lambda model, em, adam: optim.restrict(adam, "theta"), "rule: got an optax optimiser"),
        (lambda model, em, adam: optim.minibatches(model, 2), "rule: got Model"),
        (lambda model, em, adam: optim.damp(em, model, 0.1), "model: got Rule"),
        (lambda model, em, adam: optim.damp(model, model, 0.1), "rule: got Model"),
        (lambda model, em, adam: em.init(start("full")[1].theta), r"params: got Theta, expected elbo.Params\(theta"),
        (lambda model, em, adam: optim.vem_step(model, adam).init(start("full")[1].theta), "params: got Theta"),
    ],
)
def test_one_thing_given_for_another_is_named(problem, call, message):
    with pytest.raises(TypeError, match=message):
        call(start("full")[0], problem[0], optax.adam(0.1))


def test_rules_without_closures_can_be_pickled():
    params = mixture.init(jax.random.key(0), jnp.arange(8.0)[:, None], 2)
    em = optim.em_step(mixture.model(2))
    rule = optim.minibatches(optim.damp(mixture.model(2), optim.restrict(em, "theta.weights"), 0.5), 4)
    for r in (em, rule):
        again = pickle.loads(pickle.dumps(r))
        args = jax.random.key(0), params, r.init(params), jnp.arange(8.0)[:, None]
        same(again.update(*args), r.update(*args))
