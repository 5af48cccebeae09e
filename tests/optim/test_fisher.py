"""Fisher's identity, and what it implies: a fixed point of EM is stationary for every rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis
from elbo.models.families import PseudoData

from ..problems import PROBLEMS, start

pytestmark = pytest.mark.usefixtures("x64")


def same(a, b, rtol, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_at_the_exact_posterior_is_that_of_the_evidence(name):
    model, params, ys = start(name, seed=1)
    marginal = PROBLEMS[name].log_marginal

    def of_bound(theta):
        return jnp.mean(elbo.elbo(model)(elbo.Params(theta, params.theta), ys))

    def of_evidence(theta):
        return jnp.mean(elbo.evidence(model)(elbo.Params(theta, None), ys))

    def by_hand(theta):
        return jnp.mean(jax.vmap(lambda y: marginal(theta, y))(ys))

    @jax.jit
    def every(theta):
        return jax.grad(of_bound)(theta), *(jax.value_and_grad(f)(theta) for f in (of_evidence, by_hand))

    slope, (evidence, of_ours), (truth, of_theirs) = every(params.theta)
    np.testing.assert_allclose(evidence, truth, rtol=1e-10)
    same(slope, of_ours, 1e-7, 1e-9)
    same(slope, of_theirs, 1e-7, 1e-9)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) > 1e-3


@pytest.mark.parametrize("name", ["categorical", "normal", "full", "ppca"])
def test_a_fixed_point_of_em_moves_under_no_rule(name):
    model, params, ys = start(name, seed=1)
    result = optim.run(optim.em_step(model), params, ys, steps=20_000, tolerance=1e-15)
    fixed = result.params
    for rule in (optim.eg_step(model, optax.sgd(1.0)), optim.vae_step(model, optax.sgd(1.0))):
        moved = rule.update(None, fixed, rule.init(fixed), ys)[0]
        drift = max(
            float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (fixed.theta, moved.theta)), strict=True)
        )
        began = rule.update(None, params, rule.init(params), ys)[0]
        first = max(
            float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (params.theta, began.theta)), strict=True)
        )
        assert drift < 1e-4 * first


def test_map_em_and_gradient_ascent_end_at_the_same_posterior_mode():
    model, params, ys = start("full", seed=1)
    prior = params.theta._replace(
        weights=PseudoData(params.theta.weights, 5.0), components=PseudoData(params.theta.components, 5.0)
    )
    em = optim.run(optim.em_step(model, prior=prior), params, ys, steps=3000, tolerance=1e-14)
    eg = optim.eg_step(model, optax.sgd(0.1), prior=prior)
    moved, _, info = eg.update(None, em.params, eg.init(em.params), ys)
    same(moved.theta, em.params.theta, 1e-4, 1e-5)
    np.testing.assert_allclose(info.objective, em.history.objective[int(em.steps) - 1], rtol=1e-10)
    assert np.abs(info.objective - info.elbo) > 1e-3


def test_vem_and_eg_reach_the_optimum_of_em():
    model, params, ys = start("ppca", seed=2)
    best = optim.run(optim.em_step(model), params, ys, steps=5000, tolerance=1e-14).history.elbo
    best = float(jnp.nanmax(best))
    eg = optim.run(optim.eg_step(model, optax.lbfgs()), params, ys, steps=300)
    np.testing.assert_allclose(eg.history.elbo[-1], best, atol=1e-5)
    encoder = elbo.Params(params.theta, factor_analysis.init_linear_encoder(params.theta))
    rule = optim.vem_step(factor_analysis.amortized(), optax.adam(optax.cosine_decay_schedule(0.05, 4000)))
    vem = optim.run(rule, encoder, ys, steps=4000)
    np.testing.assert_allclose(vem.history.elbo[-1], best, atol=1e-3)
