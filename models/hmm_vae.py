"""HMM-VAEs: discrete states, continuous x_t given the state, and a network from x_t to the frame y_t.

With networks, params = build(key, ys, states, latent) and m = model(networks, states):

    fit       optim.fit(optim.minibatches(optim.vae_step(m, optimizer), 128), params, ys, key=key).params
    score     elbo.elbo(m)(params, ys, key), a lower bound, nats, [N]
    decode    hmm_inference.decode(hmm.model(states), elbo.Params(params.theta.chain), means(m, params, ys)).states
    sample    sample(key, networks, params.theta, frames)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import elbo
from elbo.extend import PyTree, value

from . import hmm, vae
from ._questions import each
from .families import Categorical, MultivariateNormal
from .networks import MLP, functional


class Theta(NamedTuple):
    """Parameters of P(s, x, y).

    Attributes:
      chain: `hmm.Theta` of K states, whose emission is a family over x_t [Q] with batch shape (K,).
      decoder: what a VAE's theta is: the network's parameters, or a `vae.GaussianTheta`.
    """

    chain: hmm.Theta
    decoder: PyTree


class Psi(NamedTuple):
    """Parameters of q(x, s | y).

    Attributes:
      chain: shaped like that of Θ; the exact E step copies it from there.
      encoder: the parameters of the network.
    """

    chain: hmm.Theta
    encoder: PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Framewise:
    """Independent posteriors of the frames of a sequence; x is zero in the padding.

    Args:
      each: a reparameterised posterior of one frame, with a leading axis T.
      length: number of frames that count, an int scalar.

    >>> q = Framewise(elbo.NormalPosterior(jnp.ones((3, 1)), jnp.zeros((3, 1))), jnp.array(2))
    >>> q.mean()[:, 0].tolist(), q.entropy().tolist()  # ln 2πe
    ([1.0, 1.0, 0.0], 2.8379)
    """

    each: Any
    length: jax.Array
    reparameterized: ClassVar[bool] = True

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw [T, Q], differentiable in the parameters."""
        # a key for each frame: draws do not depend on the amount of padding
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(jax.tree.leaves(self.each)[0])))
        return self._masked(jax.vmap(lambda q, k: q.sample(k))(self.each, keys))

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Σ_t ln q(x_t)."""
        return jnp.sum(self._masked(jax.vmap(lambda q, x: q.log_prob(x))(self.each, x)))

    def entropy(self) -> jax.Array:
        """Σ_t H(x_t)."""
        return jnp.sum(self._masked(jax.vmap(lambda q: q.entropy())(self.each)))

    def mode(self) -> jax.Array:
        """[T, Q]."""
        return self._masked(jax.vmap(lambda q: q.mode())(self.each))

    def mean(self) -> jax.Array:
        """[T, Q]."""
        return self._masked(jax.vmap(lambda q: q.mean())(self.each))

    def _masked(self, values: jax.Array) -> jax.Array:
        return elbo.Padded(values, self.length).clean().values


@value
class Encoder:
    """q(x, s | y) = Π_t N(x_t; encode(frames around t)) · P_Ψ(s | x), a `Nested` posterior; z = (x [T, Q], `Path`).

    Args:
      encode: `encode(params, window)`: frames t − context … t + context, [(2 context + 1) D], to [2 Q].
      context: frames on each side; those outside of the sequence are zeros.
      chain: the exact encoder of the HMM.
    """

    encode: vae.Apply
    context: int
    chain: Callable[[PyTree, PyTree], elbo.Posterior]

    def __call__(self, psi: Psi, y: PyTree) -> elbo.Nested:
        """The posterior of one sequence."""
        values, length = elbo.as_padded(y).clean()
        frames, reach = values.shape[0], self.context
        around = jnp.pad(values, ((reach, reach), (0, 0)))
        window = jnp.concatenate([around[i : i + frames] for i in range(2 * reach + 1)], axis=-1)
        loc, log_scale = jnp.split(jax.vmap(self.encode, (None, 0))(psi.encoder, window), 2, axis=-1)
        return elbo.Nested(Framewise(elbo.NormalPosterior(loc, log_scale), length), (psi.chain, length), self.states)

    def states(self, inner: tuple[hmm.Theta, jax.Array], x: jax.Array) -> elbo.Posterior:
        """P_Ψ(s | x), a `ChainPosterior`: given x, y says nothing more of the states."""
        theta, length = inner
        return self.chain(theta, elbo.Padded(x, length))

    def e_step(self, theta: Theta, psi: Psi) -> Psi:
        """The exact E step of the states: the copy of the HMM; the network stays."""
        return psi._replace(chain=theta.chain)


@value
class Joint:
    """The log_joint of `model`; equal where its fields are, so that equal models share one compiled program.

    Attributes:
      chain: the HMM of x.
      frame: the VAE of one frame.
    """

    chain: elbo.Model
    frame: elbo.Model

    def __call__(
        self, theta: Theta, z: tuple[jax.Array, elbo.posteriors.Path], y: PyTree
    ) -> tuple[jax.Array, jax.Array]:
        """ln P(s, x) and Σ_t ln p(y_t | x_t) of one sequence, nats."""
        x, path = z
        sequence = elbo.as_padded(y).clean()
        _, seen = jax.vmap(self.frame.log_joint, (None, 0, 0))(theta.decoder, x, sequence.values)
        fit = jnp.sum(jnp.where(sequence.mask(), seen, 0))
        return self.chain.log_joint(theta.chain, path, elbo.Padded(x, sequence.length)), fit


def model(
    networks: vae.Networks, states: int, likelihood: vae.Likelihood = "bernoulli", *, context: int = 0
) -> elbo.Model:
    """ln P(s, x, y) = ln P(s, x) + Σ_t ln p(y_t | decode(x_t)), with q(x, s | y) = q(x | y) P_Ψ(s | x).

        L = E_{q(x|y)} [E_{P_Ψ(s|x)} ln P(s, x) + H(P_Ψ(s|x)) + Σ_t ln p(y_t | x_t)] + H(q(x|y))

    The sum over the states is exact, O(T K²); x is sampled, so that a key is needed. At Ψ's HMM equal to that of Θ the
    first two terms are ln P(x). Structured VAEs: Johnson et al. 2016; here q(x | y) does not read the HMM.

    A datum y is one sequence: an array [T, D], or that in an `elbo.Padded`. A NaN makes it unusable.

    Args:
      networks: `decode(params, x)`: x [Q] to [D]; `encode`: see `Encoder`.
      states: K.
      likelihood: as in `models.vae`.
      context: frames on each side of a frame that the encoder reads.
    """
    if context < 0:
        raise ValueError(f"context: got {context}, expected a number of frames >= 0")
    joint = Joint(hmm.model(states), vae.model(networks, likelihood))
    return elbo.Model(joint, Encoder(networks.encode, context, joint.chain.encoder), usable)


def usable(y: PyTree) -> jax.Array:
    """Whether a sequence can be used: its length is in 1..T, and all its frames are finite."""
    sequence = elbo.as_padded(y)
    return sequence.is_sound() & elbo.numerics.all_finite(sequence.clean().values)


def build(
    key: jax.Array,
    ys: PyTree,
    states: int,
    latent: int,
    *,
    hidden: tuple[int, ...] = (64,),
    likelihood: vae.Likelihood = "bernoulli",
    context: int = 0,
    stay: float = 0.9,
    spread: float = 1.0,
    activation: Callable[[jax.Array], jax.Array] = nnx.relu,
) -> tuple[vae.Networks, elbo.Params]:
    """Two multilayer perceptrons, and starting parameters; the states are unit Gaussians around random means.

    Args:
      key: PRNG key.
      ys: a batch of sequences [N, T, D], or that in an `elbo.Padded`; only D is read.
      states: K.
      latent: Q, of x_t.
      hidden: widths of the hidden layers of the encoder; the decoder's are the same in reverse.
      likelihood, context: as in `model`.
      stay: probability of staying in a state.
      spread: standard deviation of the states' means.
      activation: of the hidden layers.

    >>> ys = jnp.zeros((2, 5, 3))
    >>> networks, params = build(jax.random.key(0), ys, states=2, latent=1, hidden=(4,))
    >>> elbo.elbo(model(networks, 2))(params, ys, jax.random.key(1)).shape
    (2,)
    """
    values = jax.tree.leaves(ys)[0]
    if values.ndim != 3 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"ys: got {values.dtype}{list(values.shape)}, expected floating-point sequences [N, T, D]")
    encoder_key, decoder_key, mean_key = jax.random.split(key, 3)
    size = values.shape[-1]
    inputs = (2 * context + 1) * size
    encode, encoder = functional(MLP((inputs, *hidden, 2 * latent), nnx.Rngs(encoder_key), activation))
    decode, decoder = functional(MLP((latent, *reversed(hidden), size), nnx.Rngs(decoder_key), activation))
    dtype = jax.tree.leaves(decoder)[0].dtype
    emission = _unit(spread * jax.random.normal(mean_key, (states, latent), dtype))
    chain = hmm.Theta(Categorical(jnp.zeros(states, dtype)), hmm.sticky(states, stay, dtype), emission)
    theta = Theta(chain, vae.decoder_theta(decoder, likelihood))
    copied = jax.tree.map(jnp.copy, chain)
    return vae.Networks(decode, encode), elbo.Params(theta, Psi(copied, encoder))


def means(model: elbo.Model, params: elbo.Params, ys: PyTree) -> elbo.Padded:
    """E[x_t | y] of a batch of sequences, [N, T, Q], zero in the padding: data for an HMM over x alone."""

    def one(params, y):
        q: Any = model.posterior(params, y)
        return elbo.Padded(q.outer.mean(), elbo.as_padded(y).length)

    return each(one, params, ys)


def cluster(
    key: jax.Array, model: elbo.Model, params: elbo.Params, ys: PyTree, states: int, *, stay: float = 0.9
) -> elbo.Params:
    """The same networks with other states: k-means++ on `means`; for networks that were trained with one state.

    One state makes a model a plain VAE, whose prior is a Gaussian that EM fits.

    Args:
      key: PRNG key.
      model: of any number of states.
      params: of the same model.
      ys: a batch of sequences [N, T, D], or that in an `elbo.Padded`.
      states: K of the parameters returned; their model is `model(networks, K, …)`.
      stay: probability of staying in a state.

    >>> ys = jax.random.normal(jax.random.key(2), (2, 9, 3))
    >>> networks, params = build(jax.random.key(0), ys, states=1, latent=2, hidden=(4,))
    >>> cluster(jax.random.key(1), model(networks, 1), params, ys, 3).theta.chain.emission.mean.shape
    (3, 2)
    """
    x = means(model, params, ys)
    size = x.values.shape[-1]
    chain = hmm.init(key, x, states, family=_unit(jnp.zeros((states, size), x.values.dtype)), stay=stay).theta
    copied = jax.tree.map(jnp.copy, chain)
    return elbo.Params(params.theta._replace(chain=chain), params.psi._replace(chain=copied))


def sample(key: jax.Array, networks: vae.Networks, theta: Theta, frames: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One draw of states int [T] and x [T, Q], and x decoded: log odds (Bernoulli) or means (Gaussian), [T, D]."""
    states, x = hmm.sample(key, theta.chain, frames)
    return states, x, vae.decode(networks, theta.decoder, x)


def _unit(mean: jax.Array) -> MultivariateNormal:
    """Gaussians of covariance I around means [K, Q]."""
    covariance = jnp.tile(jnp.eye(mean.shape[1], dtype=mean.dtype), (len(mean), 1, 1))
    # without a floor a state that holds one sampled frame would take the density to infinity
    return MultivariateNormal.create(mean, covariance, floor=1e-2)
