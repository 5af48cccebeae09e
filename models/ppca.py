"""Probabilistic PCA: factor analysis with spherical noise, whose maximum likelihood has a closed form.

fit       maximum_likelihood(ys, latent)[0] is theta; by EM as in `factor_analysis`
score     elbo.evidence(model(latent))(elbo.Params(theta), ys), nats, [N]
sample    sample(key, theta, count)
"""

import math

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import anywhere

from . import factor_analysis
from .factor_analysis import Theta
from .families import LinearGaussian


def model(latent: int) -> elbo.Model:
    """PPCA with its exact posterior over z [latent]: the log_joint of factor analysis."""
    return factor_analysis.model(latent)


@anywhere
def init(key: jax.Array, ys: jax.Array, latent: int) -> elbo.Params:
    """Small random loadings, see `factor_analysis.init`.

    >>> init(jax.random.key(0), jnp.eye(3), 1).theta.observation.weights.shape
    (3, 1)
    """
    return factor_analysis.init(key, ys, latent, noise="spherical")


def maximum_likelihood(ys: jax.Array, latent: int) -> tuple[Theta, jax.Array]:
    """The global maximum of ln P(ys) (Tipping & Bishop 1999, eq. 14-15), from the eigenvectors of the covariance.

    With eigenvalues λ_1 >= ... >= λ_D: noise variance σ² = mean of the D − Q smallest, weights = U_Q (Λ_Q − σ²)^½,
    and per datum ln P = −½ (Σ_{j<=Q} ln λ_j + (D − Q) ln σ² + D + D ln 2π).

    Args:
      ys: data, [N, D], floating point.
      latent: Q, below D and below the rank of the centred data (at most N - 1).

    Returns:
      The parameters, and ln P per datum in nats.

    Raises:
      ValueError: ys is no finite matrix, or the data lie in a space of Q dimensions: there the likelihood grows without
        bound as the noise vanishes. Under jit and vmap, where values are not known, both results are NaN instead.

    >>> ys = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> maximum_likelihood(ys, 1)[1].tolist()  # covariance diag(2, 1/2): -½ (ln 2 + ln ½ + 2 + 2 ln 2π)
    -2.8379
    """
    ys = jnp.asarray(ys)
    if ys.ndim != 2 or not jnp.issubdtype(ys.dtype, jnp.floating):
        raise ValueError(f"ys: got {ys.dtype}{list(ys.shape)}, expected floating-point data [N, D]")
    size = ys.shape[1]
    if not 0 < latent < size:
        raise ValueError(
            f"latent: got {latent}, expected 0 < latent < {size}, the number of columns of ys {list(ys.shape)}"
        )
    mean = jnp.mean(ys, 0)
    centred = ys - mean
    values, vectors = jnp.linalg.eigh(jnp.matmul(centred.T, centred, precision=elbo.PRECISION) / ys.shape[0])
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = jnp.mean(values[latent:])
    # what rounding makes of an eigenvalue 0
    noise = jnp.where(noise > 8 * size * jnp.finfo(ys.dtype).eps * values[0], noise, jnp.nan)
    if not isinstance(noise, jax.core.Tracer) and not jnp.isfinite(noise):
        problem = "values that are not finite" if not jnp.isfinite(values[0]) else f"rank {latent} or less"
        raise ValueError(
            f"ys: got {list(ys.shape)} with {problem}, expected finite data whose covariance has a rank above latent = "
            f"{latent}: otherwise the likelihood has no maximum. Take fewer latents, or more data"
        )
    weights = vectors[:, :latent] * jnp.sqrt(jnp.maximum(values[:latent] - noise, 0))
    theta = Theta(LinearGaussian.create(weights, mean, jnp.sqrt(noise)))
    log_det = jnp.sum(jnp.log(values[:latent])) + (size - latent) * jnp.log(noise)
    return theta, -0.5 * (log_det + size * (1 + math.log(2 * math.pi)))


def sample(key: jax.Array, theta: Theta, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws from the model: z [count, Q], y [count, D]."""
    return factor_analysis.sample(key, theta, count)
