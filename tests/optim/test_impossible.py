"""Sampled bounds where q draws what the model calls impossible: L is −∞, and a mean over lucky draws is no bound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models.families import Categorical

KEY = jax.random.key(0)
POSSIBLE = jnp.array([True, True, False])
SGD = optax.sgd(0.1)


def linear(theta, z, y):
    return z @ jnp.where(POSSIBLE, theta, elbo.LOG_ZERO) + elbo.safe_log(y)


def logarithm(theta, z, y):
    return jnp.log(z @ jnp.where(POSSIBLE, jnp.exp(theta), 0)) + elbo.safe_log(y)


def branch(theta, z, y):
    return jnp.where(z[2] > 0, -jnp.inf, z @ theta) + elbo.safe_log(y)


def half_line(theta, z, y):
    """z > 0; a Gaussian q reaches beyond."""
    return jnp.where(z[0] > 0, -z[0], elbo.LOG_ZERO) + theta[0] + elbo.safe_log(y)


def categorical(psi, y):
    return elbo.CategoricalPosterior(psi)


def normal(psi, y):
    return elbo.NormalPosterior(psi[:1] + 0.5, jnp.zeros(1))


CASES = {
    "two draws": (linear, categorical, elbo.ScoreFunction(2)),
    "one draw": (linear, categorical, elbo.ScoreFunction(1, baseline=False)),
    "a logarithm": (logarithm, categorical, elbo.ScoreFunction(2)),
    "a branch": (branch, categorical, elbo.ScoreFunction(3)),
    "hard and soft": (linear, categorical, elbo.Relaxed(0.5, straight_through=True)),
    "a Gaussian": (half_line, normal, None),
}


def step(log_joint, encoder, estimator, psi, ys, weights=None, chunk_size=None):
    rule = optim.vae_step(elbo.Model(log_joint, encoder), SGD, estimator=estimator, chunk_size=chunk_size)
    params = elbo.Params(jnp.zeros(3), psi)
    return rule.update(KEY, params, rule.init(params), ys, weights=weights)


@pytest.mark.parametrize("name", CASES)
def test_no_bound_exceeds_the_evidence(name):
    """Also where the impossible value is the most probable one."""
    log_joint, encoder, estimator = CASES[name]
    rule = optim.vae_step(elbo.Model(log_joint, encoder), SGD, estimator=estimator)
    for psi in (jnp.zeros(3), jnp.array([0.0, 0.0, 2.0])):
        params = elbo.Params(jnp.zeros(3), psi)
        new, _, info = rule.update(KEY, params, rule.init(params), jnp.ones(50))
        assert info.elbo == info.objective == -jnp.inf and info.dropped > 0 and not info.feasible
        assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(new))


@pytest.mark.parametrize("name", ["one draw"])
def test_impossible_data_are_left_out_as_ever(name):
    """Where q draws possible values alone, a datum for which nothing is possible is dropped; L is that of the rest."""
    log_joint, encoder, estimator = CASES[name]
    psi, ys = jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([1.0, 0.0, 1.0, 1.0])
    _, _, info = step(log_joint, encoder, estimator, psi, ys)
    assert info.dropped == 1 and np.isclose(info.elbo, np.log(2))
    _, _, info = step(log_joint, encoder, estimator, psi, ys.at[2].set(jnp.nan), chunk_size=2)
    assert info.dropped == 2 and np.isclose(info.elbo, np.log(2))


def test_a_q_that_overflows_is_dropped():
    """It is broken; nothing says that the model calls its draws impossible."""
    square = lambda theta, z, y: jnp.where(z[0] < 9, -(z[0] ** 2), -(z[0] ** 2)) + y
    _, _, info = step(
        square, lambda psi, y: elbo.NormalPosterior(psi[:1], 60 * y + jnp.zeros(1)), None, jnp.zeros(3), jnp.eye(4)[0]
    )
    assert info.dropped == 1 and np.isfinite(info.elbo)


def test_data_of_weight_zero_are_not_asked():
    log_joint, encoder, estimator = CASES["one draw"]
    _, _, info = step(log_joint, encoder, estimator, jnp.zeros(3), jnp.ones(50), weights=jnp.zeros(50))
    assert np.isnan(info.elbo) and info.dropped == 0


def test_variational_em_tells_it_too():
    log_joint = lambda theta, z, y: theta.log_prob(z)
    theta = Categorical.create(jnp.array([0.5, 0.5, 0.0]))
    rule = optim.vem_step(elbo.Model(log_joint, categorical), SGD, estimator=elbo.ScoreFunction(2))
    params = elbo.Params(theta, jnp.zeros(3))
    _, _, info = rule.update(KEY, params, rule.init(params), jnp.ones(50))
    assert info.elbo == -jnp.inf and info.dropped > 0


def test_where_z_cannot_be_impossible_nothing_is_compiled():
    """A network in a Gaussian z compares and takes no logarithm of z; what it does with y does not matter."""
    decoder = lambda theta, z, y: (
        jnp.where(y > 0, jnp.log(y), 0) * jnp.tanh(z[0]) + elbo.numerics.on_support(z[0], y > 0)
    )
    one = jax.ShapeDtypeStruct((), jnp.float32)
    params = elbo.Params(jnp.zeros(3), jnp.zeros(3))
    asked = {
        f.__name__: elbo.extend.may_draw_the_impossible(elbo.Model(f, normal), params, one)
        for f in (decoder, half_line)
    }
    assert asked == {"<lambda>": False, "half_line": True}
    exact = elbo.Model(linear, elbo.exact(linear, elbo.categorical(3)))
    assert not elbo.extend.may_draw_the_impossible(exact, params, one)
