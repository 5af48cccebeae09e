"""Factor analysis: a Gaussian latent vector, seen through a linear map and diagonal noise. With m = model(latent):

fit       optim.fit(optim.em_step(m), init(key, ys, latent), ys).params
score     elbo.evidence(m)(params, ys), nats, [N]
predict   jax.vmap(lambda y: m.posterior(params, y).mean())(ys), the factors, [N, latent]
sample    sample(key, params.theta, count)
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import anywhere

from ._chunks import sum_rows
from ._scales import scales, valid_weights
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
    if theta.observation.weights.shape[-1:] != z.shape:
        got = theta.observation.weights.shape[-1]
        raise ValueError(
            f"theta: got {got} latent dimensions, expected the {z.size} of factor_analysis.model({z.size})"
        )
    return elbo.NormalPosterior(jnp.zeros_like(z), jnp.zeros_like(z)).log_prob(z), theta.observation.log_prob(y, z)


def model(latent: int) -> elbo.Model:
    """Factor analysis with its exact Gaussian posterior over z [latent]; PPCA where the noise is spherical.

    The precision of the posterior does not depend on y: under vmap it is factorised once for all data.
    """
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.gaussian(latent)))


def amortized() -> elbo.Model:
    """The same model with a linear encoder, `LinearPsi`; its best q is the exact posterior, found by gradient."""
    return elbo.Model(log_joint, linear_encoder)


def linear_encoder(psi: LinearPsi, y: jax.Array) -> elbo.MultivariateNormalPosterior:
    """q(z|y) of one datum [D]."""
    loc = jnp.dot(psi.weights, y - psi.centre, precision=elbo.PRECISION)
    diagonal = jnp.exp(jnp.diagonal(psi.root))
    return elbo.MultivariateNormalPosterior(loc, jnp.tril(psi.root, -1) + jnp.diag(diagonal))


@anywhere
def init(
    key: jax.Array,
    ys: jax.Array,
    latent: int,
    *,
    noise: Literal["diagonal", "spherical"] = "diagonal",
    weights: jax.Array | None = None,
) -> elbo.Params:
    """Small random loadings around the data's mean; the noise takes the rest of the variance.

    All in units of each column's spread (`models.scales`), with a floor of a thousandth of it; spherical noise, which
    has one unit for all columns, of their root mean square.

    Args:
      key: PRNG key.
      ys: data, [N, D], floating point; data that hold a NaN or an infinity are left out.
      latent: Q.
      noise: "diagonal" (factor analysis) or "spherical" (PPCA).
      weights: [N], 1 by default; data of weight 0 are left out.

    >>> ys = jax.random.normal(jax.random.key(0), (50, 4))
    >>> params = init(jax.random.key(1), ys, 2)
    >>> elbo.evidence(model(2))(params, ys).shape
    (50,)
    """
    if getattr(ys, "ndim", None) != 2 or not jnp.issubdtype(ys.dtype, jnp.floating):
        got = f"{ys.dtype}{list(ys.shape)}" if hasattr(ys, "ndim") else f"a {type(ys).__name__}"
        raise ValueError(f"ys: got {got}, expected one array of floating-point data [N, D]")
    if latent < 1:
        raise ValueError(f"latent: got {latent}, expected at least one dimension")
    if noise not in ("diagonal", "spherical"):
        raise ValueError(f"noise: got {noise!r}, expected 'diagonal' or 'spherical'")
    ys = jnp.asarray(ys)
    weights = jnp.ones(ys.shape[0], ys.dtype) if weights is None else jnp.asarray(weights, ys.dtype)
    weights = jnp.where(jnp.all(jnp.isfinite(ys), -1), valid_weights(weights), 0)
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(ys.dtype).tiny)
    units = scales(ys, weights)
    weights = jnp.where(units.within(ys), weights, 0)

    def deviation(counted, ys, weights):
        part = jnp.where(weights[:, None] > 0, (ys - units.location) / units.spread, 0)
        return jnp.sum(part * (weights * counted)[:, None], 0)

    # the mean is that of the maximum: from elsewhere EM would have to find it
    mean = units.location + units.spread * (sum_rows(deviation, ys, weights) / jnp.maximum(jnp.sum(weights), 1))
    scale, floor = units.spread, units.floor()
    if noise == "spherical":
        largest = jnp.max(scale)
        scale = largest * jnp.sqrt(jnp.mean((scale / largest) ** 2))
        floor = jnp.maximum(1e-3 * scale, jnp.finfo(ys.dtype).eps * jnp.max(abs(units.location)))
    loadings = 0.3 * jax.random.normal(key, (ys.shape[1], latent), ys.dtype) * jnp.reshape(scale, (-1, 1))
    observation = LinearGaussian.create(loadings, mean, scale, floor=floor)
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
