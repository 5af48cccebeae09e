"""Bad data are left out and reported, bad requests are refused in words, and parameters are never replaced by NaN."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis, mixture, vae
from elbo.models.families import Categorical, MultivariateNormal, Normal, PseudoData

from ..problems import start

SGD = optax.sgd(1e-2)  # Adam takes the sign of gradients that are rounding alone


@cache  # a rule made anew is a new program
def rules(model, optimizer=SGD):
    return {
        "em": optim.em_step(model),
        "eg": optim.eg_step(model, optimizer),
        "vem": optim.vem_step(model, optimizer),
        "vae": optim.vae_step(model, optimizer),
    }


RULES = ["em", "eg", "vem", "vae"]


def step(rule, params, ys, weights=1):
    """An update with a weight for each datum, also where all are 1: so one program serves most tests."""
    weights = np.broadcast_to(np.asarray(weights, float), len(ys))
    return rule.update(None, params, rule.init(params), ys, weights=jnp.asarray(weights))


def same(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf, -jnp.inf])
def test_junk_data_are_left_out_and_counted(name, junk):
    model, params, ys = start("full")
    rule = rules(model)[name]
    bad = np.array(ys)
    bad[3, 1] = bad[7] = junk
    got, _, info = step(rule, params, jnp.asarray(bad))
    if name == "em":  # the data are gone; for the others, which cost more to compile, they have no weight
        expected, _, clean = rule.update(None, params, (), np.delete(ys, [3, 7], axis=0))
    else:
        expected, _, clean = step(rule, params, ys, ~np.isin(np.arange(len(ys)), [3, 7]))
    same(got, expected, 1e-4)
    np.testing.assert_allclose(info.elbo, clean.elbo, rtol=1e-5)
    assert (int(info.dropped), bool(info.feasible), bool(info.finite)) == (2, False, True)
    assert (int(clean.dropped), bool(clean.feasible)) == (0, True)


@pytest.mark.parametrize("name", RULES)
def test_padding_of_weight_zero_is_not_looked_at(name):
    model, params, ys = start("full")
    rule = rules(model)[name]
    some = len(ys) - 3
    got, _, info = step(rule, params, ys.at[some:].set(jnp.nan), np.arange(len(ys)) < some)
    same(got, rule.update(None, params, rule.init(params), ys[:some])[0], 1e-4)
    assert int(info.dropped) == 0 and bool(info.feasible)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("how", ["all NaN", "all of weight 0"])
def test_without_a_single_usable_datum_nothing_moves(name, how):
    model, params, ys = start("full")
    rule = rules(model)[name]
    weights = 0 if how == "all of weight 0" else 1
    got, _, info = step(rule, params, jnp.full_like(ys, jnp.nan) if weights else ys, weights)
    same(got.theta, params.theta)
    assert np.isnan(info.elbo) and finite(got)
    assert int(info.dropped) == (len(ys) if weights else 0)


@pytest.mark.parametrize("name", ["em", "eg", "vae"])
def test_an_impossible_datum_moves_nothing(name):
    probabilities = jnp.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]])
    theta = mixture.Theta(Categorical(jnp.zeros(2)), Categorical.create(probabilities))
    model, params = mixture.model(2), elbo.Params.tied(theta)
    ys = jnp.array([0, 1, 1, 0, 2, 7])  # 2 is impossible in both components, 7 is outside of the values
    assert elbo.evidence(model)(params, ys)[-2:].tolist() == [-jnp.inf, -jnp.inf]
    rule = rules(model, optax.sgd(0.1))[name]
    got, _, info = rule.update(None, params, rule.init(params), ys)
    expected, _, clean = rule.update(None, params, rule.init(params), ys[:4])
    same(got, expected, 1e-5)
    np.testing.assert_allclose(info.elbo, clean.elbo, rtol=1e-6)
    assert (int(info.dropped), bool(info.feasible), bool(info.finite)) == (2, False, True)


@pytest.mark.parametrize("name", RULES)
def test_a_start_that_is_no_covariance_is_reported_and_kept(name):
    model, params, ys = start("full")
    covariance = jnp.tile(jnp.array([[1.0, 2.0], [2.0, 1.0]]), (2, 1, 1))
    with pytest.raises(ValueError, match="covariance: got one that is not positive definite"):
        MultivariateNormal.create(params.theta.components.mean, covariance)
    components = jax.jit(MultivariateNormal.create)(
        params.theta.components.mean, covariance
    )  # its values are not known
    theta = params.theta._replace(components=components)
    broken = elbo.Params.tied(theta)
    got, _, info = step(rules(model)[name], broken, ys)
    np.testing.assert_array_equal(got.theta.components.mean, components.mean)
    assert np.isnan(info.elbo) and int(info.dropped) == len(ys) and not bool(info.feasible)


@pytest.mark.parametrize("name", ["eg", "vae"])
def test_a_gradient_of_nan_keeps_parameters_and_state(name):
    def log_joint(theta, z, y):  # finite, with the slope of sqrt at 0
        return jnp.dot(z, theta * y[0] - jnp.sqrt(jnp.abs(theta - theta)))

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    rule = rules(model)[name]
    params, ys = elbo.Params(jnp.ones(2), jnp.ones(2)), jnp.ones((3, 1))
    state = rule.init(params)
    got, new_state, info = rule.update(None, params, state, ys)
    same((got, new_state), (params, state))
    assert not bool(info.finite) and np.isfinite(info.elbo)
    result = optim.run(rule, params, ys, steps=30, tolerance=0.0)
    assert optim.Reason(int(result.reason)) is not optim.Reason.MAX_STEPS
    same(result.params, params)


@pytest.mark.parametrize("name", ["eg", "vem", "vae"])
def test_a_learning_rate_of_nan_moves_nothing_and_is_reported(name):
    model, params, ys = start("full")
    rule = rules(model, optax.sgd(jnp.nan))[name]
    result = optim.run(rule, params, ys, steps=30, tolerance=0.0)
    assert finite(result.params) and not result.history.finite.any() and np.isfinite(result.history.elbo[0])
    assert optim.Reason(int(result.reason)) is optim.Reason.NONFINITE


def test_weight_decay_moves_no_floor():
    model, params, ys = start("full")
    rule = optim.eg_step(model, optax.adamw(1e-2, weight_decay=0.5))
    got, _, _ = rule.update(None, params, rule.init(params), ys)
    np.testing.assert_array_equal(got.theta.components.floor, params.theta.components.floor)
    assert not np.array_equal(got.theta.components.mean, params.theta.components.mean)


def test_a_start_of_factor_analysis_leaves_out_junk():
    ys = jax.random.normal(jax.random.key(0), (40, 3))
    junk = jnp.concatenate([ys, ys[:2].at[:, 1].set(jnp.nan), ys[:1].at[:, 0].set(jnp.inf)])
    same(factor_analysis.init(jax.random.key(1), junk, 2), factor_analysis.init(jax.random.key(1), ys, 2), 1e-5)


def test_overflow_is_reported_and_kept():
    model, params, ys = start("full")
    huge = ys.at[0].set(1e30)  # finite, but its square is not
    got, _, info = optim.em_step(model).update(None, params, (), huge)
    assert finite(got)
    assert not bool(info.finite) or int(info.dropped) == 1


def refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_requests_without_a_closed_form_name_the_leaf():
    networks, params = vae.build(jax.random.key(0), 4, 2, hidden=(3,))
    ys = jnp.zeros((5, 4))
    vem = optim.vem_step(vae.model(networks), optax.adam(1e-3))
    refused(TypeError, r"theta\['layers'\].*no closed-form M step.*eg_step or vae_step", lambda: vem.init(params))
    refused(TypeError, "no closed-form M step", lambda: vem.update(jax.random.key(0), params, (), ys))
    em = optim.em_step(vae.model(networks), keep=True)
    refused(TypeError, "no exact E step.*vem_step or vae_step", lambda: em.init(params))
    eg = optim.eg_step(vae.model(networks), optax.adam(1e-3))
    refused(TypeError, "no exact E step", lambda: eg.init(params))
    kept = optim.vem_step(vae.model(networks), optax.adam(1e-3), keep=True)
    got, _, info = kept.update(jax.random.key(0), params, kept.init(params), ys)
    same(got.theta, params.theta)
    assert np.isfinite(info.elbo)


def test_structures_that_do_not_fit_are_refused_while_tracing():
    def squared(theta, z, y):
        return jnp.sum(z**2 * theta * y)

    params, ys = elbo.Params(jnp.ones(2), jnp.ones(2)), jnp.ones(3)
    wrong = elbo.Model(squared, elbo.exact(squared, elbo.categorical(2)))
    eg = optim.eg_step(wrong, optax.sgd(0.1))
    refused(elbo.StructureError, "not affine in z", lambda: eg.update(None, params, eg.init(params), ys))

    def batched(theta, z, y):
        return z * theta * y

    wrong = elbo.Model(batched, elbo.exact(batched, elbo.categorical(2)))
    refused(ValueError, r"expected a floating-point scalar.*one datum", lambda: elbo.evidence(wrong)(params, ys))


def test_wrong_arguments_are_named():
    model, params, ys = start("full")
    em = optim.em_step(model)
    update = em.update
    refused(
        ValueError,
        r"weights: got shape \[3\], expected \[16\]",
        lambda: update(None, params, (), ys, weights=jnp.ones(3)),
    )
    refused(ValueError, r"x: got shape \[1\], expected \[2\]", lambda: update(None, params, (), ys[:, :1]))
    refused(ValueError, "x: got int32.*floating point", lambda: update(None, params, (), ys.astype(jnp.int32)))
    refused(ValueError, "ys: got leaves of shapes", lambda: update(None, params, (), jnp.zeros(())))
    refused(ValueError, "ys: got leaves of shapes", lambda: update(None, params, (), ys[:0]))
    chunked = optim.em_step(model, chunk_size=0)
    refused(ValueError, "chunk_size: got 0", lambda: chunked.update(None, params, (), ys))
    sampled = optim.vae_step(factor_analysis.amortized(), optax.adam(1e-3), estimator=elbo.Reparameterized())
    model, params, ys = start("ppca")
    params = elbo.Params(params.theta, factor_analysis.init_linear_encoder(params.theta))
    refused(ValueError, "key: got None.*random.key", lambda: sampled.update(None, params, sampled.init(params), ys))


def test_data_that_are_no_arrays_with_a_leading_axis_are_named():
    model, params, ys = start("full")
    em, eg = optim.em_step(model), optim.eg_step(model, SGD)
    doors = [
        lambda y: em.update(None, params, (), y),
        lambda y: eg.update(None, params, eg.init(params), y),
        lambda y: optim.minibatches(em, 4).update(jax.random.key(0), params, (), y),
        lambda y: optim.run(em, params, y, steps=2),
        lambda y: optim.fit(em, params, y, steps=2, progress=False),
        lambda y: elbo.evidence(model)(params, y),
    ]
    for door in doors:
        refused(TypeError, r"ys: got a list of 16.*jnp\.stack", lambda door=door: door(list(ys)))
        refused(TypeError, r"generator", lambda door=door: door(y for y in ys))
        refused(
            ValueError, r"(?s)expected \[2\].*ys: read as.*one datum alone is ys\[None\]", lambda door=door: door(ys[0])
        )
    refused(TypeError, r"ys: got a generator.*jnp\.stack\(list\(ys\)\)", lambda: doors[-2](y for y in ys))


def test_priors_that_do_not_match_are_refused():
    model, params, ys = start("full")
    good = PseudoData(params.theta.weights, 1.0)

    def update(prior):
        return lambda: optim.em_step(model, prior=prior).update(None, params, (), ys)

    refused(ValueError, "prior: its tree does not match theta's", update({"weights": good}))
    refused(TypeError, "prior: got float for a Categorical", update(mixture.Theta(1.0, None)))
    info = update(mixture.Theta(good, None))()[2]
    assert np.isfinite(info.objective) and not np.isclose(info.objective, info.elbo)


@pytest.mark.parametrize("size", [None, 5])
def test_a_finite_datum_that_overflows_is_left_out_and_the_others_train(size, key):
    networks, params = vae.build(key, size=6, latent=2, hidden=(8,), likelihood="gaussian")
    ys = jax.random.uniform(key, (16, 6)).at[3].set(1e4)
    rule = optim.vae_step(vae.model(networks, "gaussian"), SGD, chunk_size=size)
    got, _, info = rule.update(key, params, rule.init(params), ys)
    rest = jnp.ones(16).at[3].set(0)
    expected, _, _ = rule.update(key, params, rule.init(params), ys, weights=rest)
    same(got, expected, 1e-5)
    assert (int(info.dropped), bool(info.finite), float(info.weight)) == (1, True, 15.0)


@pytest.mark.parametrize("weight", [jnp.nan, -1.0, jnp.inf])
def test_weights_that_cannot_be_valid_are_left_out_and_counted(weight):
    model, params, ys = start("full")
    update = rules(model)["em"].update
    weights = jnp.ones(len(ys))
    got, _, info = update(None, params, (), ys, weights=weights.at[2].set(weight))
    expected, _, _ = update(None, params, (), ys, weights=weights.at[2].set(0))
    same(got, expected)
    assert (int(info.dropped), bool(info.feasible)) == (1, False)
    passes = optim.minibatches(optim.Rule(lambda params: (), constant), 2)
    _, _, info = passes.update(jax.random.key(0), params, (), ys, weights=weights.at[2].set(weight))
    assert (int(info.dropped), bool(info.feasible), float(info.weight)) == (1, False, len(ys) - 1)


def constant(key, params, state, ys, *, weights=None):
    return params, state, optim.Info(elbo=0.0, objective=0.0, weight=jnp.sum(weights))


def test_weights_are_an_array():
    model, params, ys = start("full")
    with pytest.raises(TypeError, match=r"weights: got a list, expected one array"):
        rules(model)["em"].update(None, params, (), ys, weights=[1.0] * len(ys))


def test_the_padding_of_a_model_of_ones_own_is_ignored():
    """By the default `usable` too: a log_joint that cleans its sequence never sees what stands in the padding."""

    def log_joint(theta, z, y):
        return jnp.sum(z.states * jax.vmap(theta.log_prob)(y.clean().values))

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.chain(2)))
    theta = Normal.create(jnp.array([[0.0], [1.0]]), jnp.ones((2, 1)))
    values = jnp.array([[0.0], [1.0], [0.5], [9.0]])
    reports = [
        optim.em_step(model).update(None, elbo.Params.tied(theta), (), elbo.Padded(bad[None], jnp.array([3])))[2]
        for bad in (values, values.at[3].set(jnp.nan), values.at[3].set(jnp.inf), values.at[1].set(jnp.nan))
    ]
    assert [int(info.dropped) for info in reports] == [0, 0, 0, 1]
    assert reports[0].elbo == reports[1].elbo == reports[2].elbo
