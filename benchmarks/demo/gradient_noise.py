"""How noisy, and how far off, sampled gradients in the encoder are: against the sum over every path of tiny texts."""

from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

import elbo
from elbo import optim
from elbo.models import latent_lm

DRAWS = 4  # of each estimator for one gradient
ESTIMATORS = {
    "score function, no baseline": elbo.ScoreFunction(DRAWS, baseline=False),
    "score function, leave one out": elbo.ScoreFunction(DRAWS),
    "relaxed, temperature 1": elbo.Relaxed(1.0, samples=DRAWS),
    "relaxed, temperature 0.3": elbo.Relaxed(0.3, samples=DRAWS),
    "straight through, temperature 1": elbo.Relaxed(1.0, straight_through=True, samples=DRAWS),
}
SIZE = latent_lm.Size(symbols=0, states=2)


class Noise(NamedTuple):
    """One estimator's gradient in Ψ, relative to the norm of the exact one.

    Attributes:
      deviation: √ of the total variance of one gradient of four draws for each text.
      bias: distance of the mean from the exact gradient, what is due to the noise taken off; 0 where nothing is left.
      error: standard error of the mean's distance.
    """

    deviation: float
    bias: float
    error: float


def tiny(rows: np.ndarray, symbols: int, *, frames: int = 5, epochs: int = 20, keys: int = 400) -> dict[str, Noise]:
    """A small decoder of 2 states, trained a little on texts of a few symbols, and its gradients.

    Args:
      rows: int [N, T], texts to cut into short ones.
      symbols: V.
      frames: symbols in a short text: 2^frames paths are summed over.
      epochs: of training, by the exact gradient; few, so that there still is one to follow.
      keys: gradients of each estimator.
    """
    size = SIZE._replace(symbols=symbols)
    texts = jnp.asarray(rows[:, :frames], jnp.int32)
    networks, params = latent_lm.build_recurrent(jax.random.key(0), size, hidden=8, embedding=4, reader=4)
    model = latent_lm.recurrent(networks, size)
    paths = jnp.array(list(product(range(size.states), repeat=frames)))

    rule = optim.vae_step(model, optax.adam(1e-2), estimator=elbo.Automatic(Listed(paths)))
    params = optim.run(optim.minibatches(rule, 64), params, texts, key=jax.random.key(1), steps=epochs).params
    batch = texts[:8]
    exact = slope(model, params, batch, Listed(paths))(jax.random.key(0))
    out = {}
    for name, estimator in ESTIMATORS.items():
        draws = jax.lax.map(
            slope(model, params, batch, estimator), jax.random.split(jax.random.key(7), keys), batch_size=50
        )
        variance = float(jnp.sum(jnp.var(draws, axis=0)))
        error = variance / keys
        gap = float(jnp.sum((draws.mean(0) - exact) ** 2))
        norm = float(jnp.linalg.norm(exact))
        bias = max(gap - error, 0.0) ** 0.5
        out[name] = Noise(variance**0.5 / norm, bias / norm, error**0.5 / norm)
    return out


class Listed(NamedTuple):
    """The exact expectation over a chain by a list of all its paths, int [S, T]."""

    paths: jax.Array

    def __call__(self, f, q, key=None):
        """Σ_z q(z) f(z)."""
        z = jax.vmap(q.path)(self.paths)
        return jnp.sum(jnp.exp(jax.vmap(q.log_prob)(z)) * jax.vmap(f)(z))


def slope(model, params, batch, estimator):
    """`f(key)`: the gradient in Ψ of the bound on a batch, flat, bits per symbol; compiled."""
    bound = elbo.elbo(model, estimator=elbo.Automatic(estimator))

    @jax.jit
    def gradient(psi, key):
        loss = jax.grad(
            lambda psi: -latent_lm.bits_per_symbol(bound(elbo.Params(params.theta, psi), batch, key), batch)
        )
        return jax.flatten_util.ravel_pytree(loss(psi))[0]

    return partial(gradient, params.psi)
