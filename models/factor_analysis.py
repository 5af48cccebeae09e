"""Factor analysis: a Gaussian latent vector, seen through a linear map and diagonal noise."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

import elbo

from .criteria import one_of_each
from .families import LinearGaussian


class Theta(NamedTuple):
    """Parameters: observation, the `LinearGaussian` y = weights z + bias + noise, weights [D, Q]."""

    observation: LinearGaussian

    def free_parameters(self) -> int:
        """The dimension of the Gaussians that the model can be: its numbers, less Q (Q − 1) / 2 for rotations of z.

        The loadings W [D, Q] count as W Wᵀ, and no more is free than there is in a mean and a full covariance of y.
        """
        one_of_each(observation=(self.observation, 0))
        size, latent = self.observation.weights.shape
        rank = min(size, latent)
        loadings = size * rank - rank * (rank - 1) // 2
        return size + min(loadings + self.observation.log_scale.size, size * (size + 1) // 2)


class LinearPsi(NamedTuple):
    """Parameters of a linear encoder, q(z|y) = N(weights (y − centre), S Sᵀ), one covariance for all y.

    Attributes:
      weights: [Q, D].
      centre: [D].
      root: S with the logarithm of its diagonal in place of the diagonal (above it: not read), [Q, Q].
    """

    weights: jax.Array
    centre: jax.Array
    root: jax.Array


def log_joint(theta: Theta, z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """ln N(z; 0, I) and ln N(y; weights z + bias, noise), for z [Q] and y [D]."""
    return elbo.Normal(jnp.zeros_like(z), jnp.zeros_like(z)).log_prob(z), theta.observation.log_prob(y, z)


@elbo.remembered
def model(latent: int) -> elbo.Model:
    """Factor analysis with its exact Gaussian posterior over z [latent]; PPCA where the noise is spherical.

    The precision of the posterior does not depend on y: under vmap it is factorised once for all data.
    """
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.gaussian(latent)))


def amortized() -> elbo.Model:
    """The same model with a linear encoder, `LinearPsi`; its best q is the exact posterior, found by gradient."""
    return elbo.Model(log_joint, linear_encoder)


def linear_encoder(psi: LinearPsi, y: jax.Array) -> elbo.MultivariateNormal:
    """q(z|y) of one datum [D]."""
    loc = jnp.dot(psi.weights, y - psi.centre, precision=elbo.PRECISION)
    diagonal = jnp.exp(jnp.diagonal(psi.root))
    return elbo.MultivariateNormal(loc, jnp.tril(psi.root, -1) + jnp.diag(diagonal))


def init(
    key: jax.Array, ys: jax.Array, latent: int, *, noise: Literal["diagonal", "spherical"] = "diagonal"
) -> elbo.Params:
    """Small random loadings around the data's mean; the noise takes the rest of the variance.

    Args:
      key: PRNG key.
      ys: data, [N, D], floating point; data that hold a NaN or an infinity are not looked at.
      latent: Q.
      noise: "diagonal" (factor analysis) or "spherical" (PPCA).

    >>> ys = jax.random.normal(jax.random.key(0), (50, 4))
    >>> params = init(jax.random.key(1), ys, 2)
    >>> elbo.evidence(model(2))(params, ys).shape
    (50,)
    """
    ys = jnp.asarray(ys)
    if ys.ndim != 2 or not jnp.issubdtype(ys.dtype, jnp.floating):
        raise ValueError(f"ys: got {ys.dtype}{list(ys.shape)}, expected floating-point data [N, D]")
    usable = jax.vmap(elbo.sum_is_finite)(ys)[:, None]
    ys = jnp.where(usable, ys, jnp.nan)
    spread = jnp.nan_to_num(jnp.nanstd(ys, 0))
    typical = jnp.maximum(jnp.sqrt(jnp.mean(spread**2)), jnp.finfo(ys.dtype).tiny)
    floor = 1e-3 * typical
    scale = jnp.maximum(spread, floor) if noise == "diagonal" else typical
    weights = 0.3 * typical * jax.random.normal(key, (ys.shape[1], latent), ys.dtype)
    observation = LinearGaussian.create(weights, jnp.nan_to_num(jnp.nanmean(ys, 0)), scale, floor=floor)
    return elbo.Params(Theta(observation), Theta(jax.tree.map(jnp.copy, observation)))


def init_linear_encoder(theta: Theta) -> LinearPsi:
    """A linear encoder that knows the bias and nothing else: q(z|y) = N(0, I)."""
    size, latent = theta.observation.weights.shape
    dtype = theta.observation.weights.dtype
    return LinearPsi(jnp.zeros((latent, size), dtype), theta.observation.bias, jnp.zeros((latent, latent), dtype))


def sample(key: jax.Array, theta: Theta, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws from the model: z [count, Q], y [count, D]."""
    z_key, y_key = jax.random.split(key)
    latent = theta.observation.weights.shape[-1]
    z = jax.random.normal(z_key, (count, latent), theta.observation.weights.dtype)
    return z, jax.vmap(theta.observation.sample)(jax.random.split(y_key, count), z)
