"""Variational autoencoders: a standard normal prior, a network from z to y, and a network from y to z.

With networks, params = build(key, size, latent) and m = model(networks):

    fit       optim.fit(optim.minibatches(optim.vae_step(m, optimizer), 128), params, ys, key=key).params
    score     elbo.elbo(m)(params, ys, key), a lower bound, nats, [N]
    encode    jax.vmap(lambda y: m.posterior(params, y).mean())(ys), [N, latent]
    sample    sample(key, networks, params.theta, latent, count)
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import elbo
from elbo.extend import PyTree, value

from .networks import MLP, functional

Apply = Callable[[PyTree, jax.Array], jax.Array]
Likelihood = Literal["bernoulli", "gaussian"]


class GaussianTheta(NamedTuple):
    """Parameters of a Gaussian decoder: the network's, and the log standard deviation of the noise, a scalar."""

    network: PyTree
    log_scale: jax.Array


class Networks(NamedTuple):
    """The two networks as pure functions, `apply(params, x)`.

    Attributes:
      decode: z [Q] to [D]: log odds of the pixels (Bernoulli) or means (Gaussian).
      encode: y [D] to [2 Q]: the mean and the log standard deviation of z.
    """

    decode: Apply
    encode: Apply


@value
class Joint:
    """The log_joint of `model`; equal where its fields are, so that equal models share one compiled program."""

    networks: Networks
    likelihood: Likelihood

    def __call__(self, theta: PyTree, z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """ln N(z; 0, I) and ln P(y | decode(z)) of one datum, nats."""
        prior = elbo.NormalPosterior(jnp.zeros_like(z), jnp.zeros_like(z)).log_prob(z)
        if self.likelihood == "bernoulli":
            logits = self.networks.decode(theta, z)
            # softplus, not the logarithm of a probability: finite for any logit
            fit = jnp.sum(y * logits - elbo.numerics.softplus(logits))
            return prior, elbo.numerics.on_support(fit, jnp.all((y >= 0) & (y <= 1)))
        mean = self.networks.decode(theta.network, z)
        return prior, elbo.NormalPosterior(mean, jnp.broadcast_to(theta.log_scale, mean.shape)).log_prob(y)


@value
class Encoder:
    """q(z | y) = N(encode(y)), with a diagonal covariance."""

    encode: Apply

    def __call__(self, psi: PyTree, y: jax.Array) -> elbo.NormalPosterior:
        """The posterior of one datum."""
        return elbo.NormalPosterior(*jnp.split(self.encode(psi, y), 2))


def model(networks: Networks, likelihood: Likelihood = "bernoulli") -> elbo.Model:
    """The VAE of Kingma & Welling (2014): ln P(z, y) = ln N(z; 0, I) + ln P(y | decode(z)), q = N(encode(y)).

    The two terms are returned apart, so that the prior's expectation is taken in closed form (the KL) and only the
    decoder's is sampled.

    Args:
      networks: the pair of pure functions.
      likelihood: "bernoulli", y in [0, 1] [D], ln P in nats, another y is impossible; "gaussian", y real, one noise
        scale for all of y, theta is a `GaussianTheta`.
    """
    if likelihood not in ("bernoulli", "gaussian"):
        raise ValueError(f"likelihood: got {likelihood!r}, expected 'bernoulli' or 'gaussian'")
    return elbo.Model(Joint(networks, likelihood), Encoder(networks.encode))


def build(
    key: jax.Array,
    size: int,
    latent: int,
    *,
    hidden: tuple[int, ...] = (400,),
    likelihood: Likelihood = "bernoulli",
    activation: Callable[[jax.Array], jax.Array] = nnx.relu,
) -> tuple[Networks, elbo.Params]:
    """Two multilayer perceptrons and their starting parameters.

    Args:
      key: PRNG key.
      size: D, of the data.
      latent: Q, of z.
      hidden: widths of the hidden layers of the encoder; the decoder's are the same in reverse.
      likelihood: as in `model`.
      activation: of the hidden layers.

    >>> networks, params = build(jax.random.key(0), size=4, latent=2, hidden=(8,))
    >>> elbo.elbo(model(networks))(params, jnp.zeros((3, 4)), jax.random.key(1)).shape
    (3,)
    """
    encoder_key, decoder_key = jax.random.split(key)
    encode, psi = functional(MLP((size, *hidden, 2 * latent), nnx.Rngs(encoder_key), activation))
    decode, theta = functional(MLP((latent, *reversed(hidden), size), nnx.Rngs(decoder_key), activation))
    return Networks(decode, encode), elbo.Params(decoder_theta(theta, likelihood), psi)


def decoder_theta(network: PyTree, likelihood: Likelihood) -> PyTree:
    """theta from a decoder's parameters: themselves, or a `GaussianTheta` with noise of scale 1."""
    if likelihood == "bernoulli":
        return network
    return GaussianTheta(network, jnp.zeros((), jax.tree.leaves(network)[0].dtype))


def decode(networks: Networks, theta: PyTree, z: jax.Array) -> jax.Array:
    """z [count, Q] decoded: log odds (Bernoulli) or means (Gaussian), [count, D]."""
    network = theta.network if isinstance(theta, GaussianTheta) else theta
    return jax.vmap(networks.decode, (None, 0))(network, z)


def sample(key: jax.Array, networks: Networks, theta: PyTree, latent: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws z [count, Q] from the prior and decodes them: log odds (Bernoulli) or means (Gaussian), [count, D]."""
    z = jax.random.normal(key, (count, latent))
    return z, decode(networks, theta, z)
