"""What people ask a fitted linear-Gaussian chain: filtering, smoothing, forecasts (the Kalman filter and smoother)."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import PyTree
from elbo.linalg import matmul, triangular_inverse, triangularize

from ._questions import each
from .linear_gaussian_chain import Joint, Theta, check_shapes


class Filtered(NamedTuple):
    """What is known of each frame from those up to it; in missing frames and in the padding, a forecast.

    Attributes:
      mean: E[z_t | y_1..t], [N, T, D].
      covariance: Cov(z_t | y_1..t), [N, T, D, D].
      log_likelihood: ln P(y_t | y_1..t-1), [N, T], nats; 0 where nothing is observed. Its sum over t is ln P(y).
    """

    mean: jax.Array
    covariance: jax.Array
    log_likelihood: jax.Array


class Smoothed(NamedTuple):
    """What is known of each frame from the whole sequence; zeros in the padding.

    Attributes:
      mean: E[z_t | y], [N, T, D].
      covariance: Cov(z_t | y), [N, T, D, D].
    """

    mean: jax.Array
    covariance: jax.Array


class Prediction(NamedTuple):
    """What is known of each observation from those before it.

    Attributes:
      mean: E[y_t | y_1..t-1], [N, T, E].
      covariance: Cov(y_t | y_1..t-1), [N, T, E, E].
    """

    mean: jax.Array
    covariance: jax.Array


@partial(jax.jit, static_argnames="model")
def smooth(model: elbo.Model, params: elbo.Params, ys: PyTree) -> Smoothed:
    """Means and covariances of each frame given all of its sequence. O(T D³).

    `model.posterior(params, y)` of one sequence has more: covariances between frames, samples, the density.
    """
    _require(model)

    def one(params, y):
        q: Any = model.posterior(params, y)
        return Smoothed(q.mean(), q.covariances())

    return each(one, params, ys)


@partial(jax.jit, static_argnames="model")
def filter(model: elbo.Model, params: elbo.Params, ys: PyTree) -> Filtered:  # noqa: A001 - the term of the field
    """Means and covariances of each frame given those up to it, and ln P(y_t | y_1..t-1).

    The Kalman filter (1960) on roots of precisions, about the predicted means: orthogonal maps alone, so that states
    that hardly move and starts of which nothing is known lose no digits. O(T (D³ + D² E)).

    Args:
      model: of `linear_gaussian_chain`.
      params: theta is read.
      ys: sequences [N, T, E], or `Padded` of that; NaN is a missing entry. Frames in the padding are forecasts.

    >>> from elbo.models import linear_gaussian_chain
    >>> from elbo.models.families import LinearGaussian, MultivariateNormal
    >>> one = jnp.ones((1, 1))
    >>> walk = LinearGaussian.create(one, jnp.zeros(1), jnp.ones(1))
    >>> theta = Theta(MultivariateNormal.create(jnp.zeros(1), one), walk, walk)
    >>> ys = jnp.array([[[2.0], [jnp.nan]]])
    >>> filtered = filter(linear_gaussian_chain.model(1), elbo.Params(theta), ys)
    >>> filtered.mean.ravel().tolist(), filtered.covariance.ravel().tolist()
    ([1.0, 1.0], [0.5, 1.5])
    """
    _require(model)
    return each(lambda params, y: _filter(params.theta, y)[0], params, ys)


@partial(jax.jit, static_argnames="model")
def predict_one_step(model: elbo.Model, params: elbo.Params, ys: PyTree) -> Prediction:
    """The distribution of each y_t given the frames before it; frames in the padding are forecasts from all others.

    Args:
      model, params, ys: as in `filter`.
    """
    _require(model)

    def one(params, y):
        theta = params.theta
        _, mean, covariance = _filter(theta, y)
        weights, _, scale = _observation(theta)
        means = jax.vmap(theta.observation.mean)(mean).reshape(mean.shape[0], -1)
        return Prediction(means, matmul(matmul(weights, covariance), weights.T) + jnp.diag(scale**2))

    return each(one, params, ys)


def _require(model: elbo.Model) -> None:
    if not isinstance(getattr(model, "log_joint", None), Joint):
        raise TypeError(f"model: got {model!r}, expected a model of linear_gaussian_chain.model(latent)")


def _filter(theta: Theta, y: Any) -> tuple[Filtered, jax.Array, jax.Array]:
    """The filter, and the means [T, D] and covariances [T, D, D] of z_t given the frames before t.

    |past (z_t − mean) |² is what the frames before t say of z_t, with `mean` what they expect.
    """
    y = elbo.as_padded(y)
    values = jnp.where(y.mask()[:, None], y.values, jnp.nan)
    check_shapes(theta, jnp.zeros((y.frames, theta.transition.event_size), theta.initial.mean.dtype), values, "frames")
    weights, log_scale, scale = _observation(theta)
    size = weights.shape[1]
    inverse = jnp.exp(-theta.transition.log_scale) * jnp.eye(size, dtype=weights.dtype)
    steps = jnp.concatenate([-matmul(inverse, theta.transition.weights), inverse], 1)
    none = jnp.zeros(size, weights.dtype)
    # the bias is taken off the data first: beside a large one the mean of z would be rounded away
    bias = theta.observation.bias.reshape(-1)
    unbiased = replace(theta.observation, bias=jnp.zeros_like(theta.observation.bias))

    def step(carry, y):
        mean, past = carry
        seen = ~jnp.isnan(y)
        rows = jnp.where(seen[:, None], weights / scale[:, None], 0)
        r = jnp.where(seen, (jnp.where(seen, y - bias, 0) - unbiased.mean(mean).reshape(-1)) / scale, 0)
        now, told, rest = triangularize(jnp.concatenate([past, rows]), jnp.concatenate([none, r]))
        root = triangular_inverse(now.T)
        new = mean + matmul(root.T, told[:, None])[:, 0]
        constant = jnp.sum(jnp.where(seen, log_scale + 0.5 * jnp.log(2 * jnp.pi), 0))
        value = _log_det(past) - _log_det(now) - 0.5 * jnp.sum(rest**2) - constant
        both = jnp.concatenate([steps, jnp.concatenate([now, jnp.zeros_like(now)], 1)])
        ahead = triangularize(both, jnp.zeros_like(both[:, 0]))[0][size:, size:]
        before = _inverse_square(past)
        return (theta.transition.mean(new), ahead), (Filtered(new, matmul(root.T, root), value), mean, before)

    return jax.lax.scan(step, (theta.initial.mean, triangularize(theta.initial.whitener(), none)[0]), values)[1]


def _log_det(triangle: jax.Array) -> jax.Array:
    return jnp.sum(jnp.log(jnp.diagonal(triangle)))


def _inverse_square(upper: jax.Array) -> jax.Array:
    """(uᵀ u)⁻¹ of an upper triangular matrix u."""
    root = triangular_inverse(upper.T)
    return matmul(root.T, root)


def _observation(theta: Theta) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights [E, D], log scales [E] and scales [E], whether the entries are regressions of their own or not."""
    scale = theta.observation.scale().reshape(-1)
    return theta.observation.weights.reshape(scale.size, -1), jnp.log(scale), scale
