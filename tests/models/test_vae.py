"""VAEs and networks: the bound is the one written by hand, and training raises it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import elbo
from elbo import optim
from elbo.models import vae
from elbo.models.networks import MLP, functional


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_bound_is_the_one_written_by_hand(likelihood, key):
    networks, params = vae.build(key, 6, 2, hidden=(5,), likelihood=likelihood)
    ys = jax.random.uniform(key, (7, 6))
    got = elbo.elbo(vae.model(networks, likelihood))(params, ys, key)
    for y, k, value in zip(ys, jax.random.split(key, 7), got, strict=True):
        loc, log_scale = jnp.split(networks.encode(params.psi, y), 2)
        z = loc + jnp.exp(log_scale) * jax.random.normal(k, (2,))
        divergence = 0.5 * jnp.sum(loc**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale)  # Kingma & Welling 2014, app. B
        if likelihood == "bernoulli":
            logits = networks.decode(params.theta, z)
            fit = -jnp.sum(optax.sigmoid_binary_cross_entropy(logits, y))
        else:
            mean = networks.decode(params.theta.network, z)
            fit = jnp.sum(jax.scipy.stats.norm.logpdf(y, mean, jnp.exp(params.theta.log_scale)))
        np.testing.assert_allclose(value, fit - divergence, rtol=1e-5)


def test_bound_and_gradient_are_finite_at_extreme_logits(key):
    networks, params = vae.build(key, 4, 2, hidden=(3,))
    far = params._replace(theta=jax.tree.map(lambda a: a + 90, params.theta))
    ys = jnp.ones((2, 4))
    value, slope = jax.value_and_grad(lambda p: elbo.elbo(vae.model(networks))(p, ys, key).sum())(far)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_training_raises_the_bound_through_minibatches(key):
    networks, params = vae.build(key, 12, 2, hidden=(16,))
    rows = jax.random.bernoulli(key, 0.5, (3, 12)).astype(jnp.float32)
    ys = rows[jax.random.randint(key, (100,), 0, 3)]
    rule = optim.minibatches(optim.vae_step(vae.model(networks), optax.adam(1e-2)), 32)
    result = optim.run(rule, params, ys, key=key, steps=60)
    # three kinds of rows: the best bound is -ln 3, and knowing nothing costs 12 ln 2 = 8.3 nats
    assert result.history.elbo[0] < -6 and result.history.elbo[-1] > -3
    z, logits = vae.sample(key, networks, result.params.theta, 2, 5)
    assert z.shape == (5, 2) and logits.shape == (5, 12)


def test_wrong_likelihood_is_refused():
    with pytest.raises(ValueError, match="likelihood: got 'poisson'"):
        vae.model(vae.Networks(None, None), "poisson")


def test_functional_is_the_module(key):
    module = MLP((3, 4, 2), nnx.Rngs(key), nnx.tanh)
    apply, params = functional(module)
    x = jax.random.normal(key, (5, 3))
    np.testing.assert_allclose(jax.jit(apply)(params, x), module(x), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(apply, (None, 0))(params, x), module(x), rtol=1e-5)
    assert jax.tree.leaves(jax.grad(lambda p: apply(p, x).sum())(params))
