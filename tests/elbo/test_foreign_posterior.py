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


class Tensor:
    """With the methods of TensorFlow Probability: the names are the same, the arguments are not."""

    def sample(self, sample_shape=(), seed=None): ...
    def log_prob(self, value): ...
    def entropy(self): ...
    def mean(self): ...
    def mode(self): ...


class Keyed(Foreign):
    """Its entropy is that of each entry."""

    def entropy(self):
        return self.log_scale


@pytest.mark.parametrize(
    ("posterior", "fault"),
    [
        (lambda y: dist.Normal(y, 1.0), r"numpyro.*Normal without the methods mode\(\), mean\(\)"),
        (lambda y: (y, 1.0), r"tuple without the methods sample\(\)"),
        (lambda y: Tensor(), r"Tensor whose sample\(\) does not take a key first"),
    ],
)
def test_a_distribution_without_the_protocol_is_named(posterior, fault):
    model = elbo.Model(lambda theta, z, y: -jnp.sum((z - y) ** 2), lambda psi, y: posterior(y))
    with pytest.raises(TypeError, match=rf"model\.encoder: got a .*{fault}.*expected a posterior.*Wrap a"):
        elbo.elbo(model)(elbo.Params((), ()), jnp.ones((3, 2)))
    for q, p in ((posterior(0.0), Foreign(0.0, 0.0)), (Foreign(0.0, 0.0), posterior(0.0))):
        with pytest.raises(TypeError, match=f"[qp]: got a .*{fault}"):
            elbo.kl(q, p)


def test_an_entropy_for_each_entry_is_refused():
    model = elbo.Model(lambda theta, z, y: jnp.sum(z), lambda psi, y: Keyed(y, 0 * y))
    with pytest.raises(ValueError, match=r"model.encoder: entropy\(\) of its Keyed is \[2\] for one datum"):
        elbo.elbo(model)(elbo.Params((), ()), jnp.ones((3, 2)))


@pytest.mark.parametrize("estimator", [elbo.Reparameterized(), elbo.Reparameterized(3)])
def test_value_and_gradient_equal_our_normal(estimator, x64, key):
    model, params, ys = amortised()

    def value_and_gradient(posterior):
        encoder = lambda psi, y: posterior(psi["w"] @ y, psi["log_scale"])
        value = elbo.elbo(elbo.Model(model.log_joint, encoder), estimator=estimator)
        psi = {"w": params.psi, "log_scale": -(normal(50, 2) ** 2)}
        return jax.value_and_grad(lambda p: value(p, ys, key).sum())(elbo.Params(params.theta, psi))

    ours, theirs = value_and_gradient(elbo.NormalPosterior), value_and_gradient(Foreign)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_automatic_samples_it(x64, key):
    """Without expect_quadratic a quadratic term is sampled too."""
    model, params, ys = amortised()
    q = Foreign(jnp.ones(2), jnp.zeros(2))
    assert elbo.Automatic().choose(lambda z: z @ z, q) == elbo.Reparameterized()
    assert elbo.Automatic().choose(jnp.sum, q) == elbo.ClosedForm()
    foreign = elbo.Model(model.log_joint, lambda psi, y: Foreign(psi @ y, -0.5 * jnp.ones(2)))
    ours = elbo.elbo(model, estimator=elbo.Reparameterized())(params, ys, key)
    np.testing.assert_allclose(elbo.elbo(foreign)(params, ys, key), ours, rtol=1e-11)
    with pytest.raises(ValueError, match="key: got None"):
        elbo.elbo(foreign)(params, ys)
