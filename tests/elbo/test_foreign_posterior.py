"""Any object with the protocol's methods is a posterior: here a numpyro distribution, wrapped in a few lines."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import elbo

from .problems import amortised, normal


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Foreign:
    loc: jax.Array
    log_scale: jax.Array
    reparameterized: ClassVar[bool] = True

    def _distribution(self):
        return dist.Normal(self.loc, jnp.exp(self.log_scale)).to_event(1)

    def sample(self, key):
        return self._distribution().sample(key)

    def log_prob(self, z):
        return self._distribution().log_prob(z)

    def entropy(self):
        return self._distribution().entropy()

    def mean(self):
        return self.loc

    def mode(self):
        return self.loc


def test_it_is_a_posterior():
    assert isinstance(Foreign(jnp.zeros(2), jnp.zeros(2)), elbo.Posterior)


@pytest.mark.parametrize("estimator", [elbo.Reparameterized(), elbo.Reparameterized(3)])
def test_value_and_gradient_equal_our_normal(estimator, x64, key):
    model, params, ys = amortised()

    def value_and_gradient(posterior):
        encoder = lambda psi, y: posterior(psi["w"] @ y, psi["log_scale"])
        value = elbo.elbo(elbo.Model(model.log_joint, encoder), estimator=estimator)
        psi = {"w": params.psi, "log_scale": -(normal(50, 2) ** 2)}
        return jax.value_and_grad(lambda p: value(p, ys, key).sum())(elbo.Params(params.theta, psi))

    ours, theirs = value_and_gradient(elbo.Normal), value_and_gradient(Foreign)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_automatic_samples_it(x64, key):
    """Without expect_quadratic a quadratic term is sampled too."""
    model, params, ys = amortised()
    q = Foreign(jnp.ones(2), jnp.zeros(2))
    assert elbo.Automatic().choose(lambda z: z @ z, q) == elbo.Reparameterized()
    assert elbo.Automatic().choose(jnp.sum, q) == elbo.Exact()
    foreign = elbo.Model(model.log_joint, lambda psi, y: Foreign(psi @ y, -0.5 * jnp.ones(2)))
    ours = elbo.elbo(model, estimator=elbo.Reparameterized())(params, ys, key)
    np.testing.assert_allclose(elbo.elbo(foreign)(params, ys, key), ours, rtol=1e-11)
    with pytest.raises(ValueError, match="key: got None"):
        elbo.elbo(foreign)(params, ys)
