"""Mixtures of any family."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import elbo

from .criteria import free_parameters, one_of_each
from .families import Categorical, MultivariateNormal
from .families.data import data_log_prob, require
from .families.estimate import estimate
from .families.multivariate_normal import Covariance
from .kmeans import kmeans


class Theta(NamedTuple):
    """Parameters of a mixture of K components.

    Attributes:
      weights: `Categorical` over the K components.
      components: a family with batch shape (K,).
    """

    weights: Categorical
    components: Any

    def free_parameters(self) -> int:
        """See `criteria.free_parameters`."""
        one_of_each(weights=(self.weights, 0))
        return free_parameters(tuple(self))


def log_joint(theta: Theta, z: jax.Array, y: Any) -> jax.Array:
    """ln P(z, y) = Σ_k z_k (ln π_k + ln p_k(y)); z is the indicator of the component, [K]."""
    # a component so narrow that its squares overflow is impossible, not −inf: 0 · (−inf) is NaN
    log_p = jnp.maximum(data_log_prob(theta.components, y), elbo.LOG_ZERO)
    return theta.weights.log_prob(z) + jnp.dot(z, log_p, precision=elbo.PRECISION)


@elbo.remembered
def model(components: int) -> elbo.Model:
    """The mixture model with its exact posterior over the component of each datum.

    >>> components = MultivariateNormal.create(jnp.zeros((2, 1)), jnp.ones((2, 1, 1)))
    >>> theta = Theta(Categorical.create(jnp.array([0.5, 0.5])), components)
    >>> elbo.evidence(model(2))(elbo.Params(theta, theta), jnp.zeros((1, 1))).tolist()  # -½ ln 2π
    [-0.9189]
    """
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(components)))


@partial(jax.jit, static_argnames="components")
def init(
    key: jax.Array, ys: jax.Array, components: int, *, family: Any = None, weights: jax.Array | None = None
) -> elbo.Params:
    """Starting parameters by k-means++, pure and vmappable over keys and data sets.

    Args:
      key: PRNG key.
      ys: data, [N, D] floating point; or [N] integers for a `Categorical` family.
      components: K.
      family: the kind of component, with batch shape (K,) and any parameters; by default a full `MultivariateNormal`
        whose floor is a thousandth of the data's standard deviation.
      weights: [N], 1 by default; data of weight 0 or with a NaN are not looked at.
    """
    ys = elbo.widen(jnp.asarray(ys))
    real = ys.ndim == 2 and jnp.issubdtype(ys.dtype, jnp.floating)
    if not real and not (ys.ndim == 1 and jnp.issubdtype(ys.dtype, jnp.integer) and isinstance(family, Categorical)):
        raise ValueError(
            f"ys: got {ys.dtype}{list(ys.shape)}, expected floating-point data [N, D], or integers [N] with a "
            "Categorical family"
        )
    usable = jax.vmap(elbo.sum_is_finite)(ys)
    usable = usable if weights is None else usable & (weights > 0)
    rows = usable.reshape(-1, *(1,) * (ys.ndim - 1))
    ys = jnp.where(rows, ys, ys[jnp.argmax(usable)])
    if family is None:
        family = gaussian(jnp.where(rows, ys, jnp.nan), components)
    dtype = ys.dtype if real else family.logits.dtype
    share = jnp.where(usable, jnp.ones((), dtype) if weights is None else weights, 0).astype(dtype)
    features = ys if real else jax.nn.one_hot(ys, family.values, dtype=dtype)
    features = jnp.where(usable[:, None], features, jnp.nan)  # k-means leaves them out
    # a component starts as its cluster and a little of everything, so that none starts on a single point
    member = (
        0.95 * jax.nn.one_hot(kmeans(key, features, components).assignments, components, dtype=share.dtype)
        + 0.05 / components
    )
    everything = estimate(family, jnp.broadcast_to(share[:, None], member.shape), ys)
    theta = Theta(
        Categorical.create(jnp.sum(member * share[:, None], 0) / jnp.sum(share)),
        estimate(everything, member * share[:, None], ys),
    )
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


@partial(jax.jit, static_argnames=("components", "covariance_type"))
def gaussian(ys: jax.Array, components: int, covariance_type: Covariance = "full") -> MultivariateNormal:
    """Gaussian components [K] like the whole of the data [N, D], with a floor of 1e-3 of its standard deviation.

    Args:
      ys: data, [N, D]; a NaN is not looked at.
      components: K.
      covariance_type: "full", "tied" or "spherical".
    """
    if ys.ndim != 2 or not jnp.issubdtype(ys.dtype, jnp.floating):
        raise ValueError(f"ys: got {ys.dtype}{list(ys.shape)}, expected floating-point data [N, D]")
    spread = jnp.nan_to_num(jnp.nanstd(ys, 0))
    largest = jnp.max(spread)
    floor = 1e-3 * jnp.where(spread > 0, spread, jnp.where(largest > 0, largest, 1))
    scale = jnp.maximum(spread, floor)
    covariance = {
        "full": jnp.tile(jnp.diag(scale**2), (components, 1, 1)),
        "tied": jnp.diag(scale**2),
        "spherical": jnp.full(components, jnp.mean(scale**2), ys.dtype),
    }
    if covariance_type not in covariance:
        raise ValueError(f"covariance_type: got {covariance_type!r}, expected one of {sorted(covariance)}")
    mean = jnp.tile(jnp.nan_to_num(jnp.nanmean(ys, 0)), (components, 1))
    return MultivariateNormal.create(mean, covariance[covariance_type], covariance_type=covariance_type, floor=floor)


def sample(key: jax.Array, theta: Theta, count: int) -> tuple[jax.Array, Any]:
    """Draws from the model: components int [count], data [count, ...]."""
    require(theta.components, "sample", "mixture.sample", "sample(key), one draw per component")

    def draw(key):
        which, what = jax.random.split(key)
        z = theta.weights.sample(which)
        return z, jax.tree.map(lambda a: a[z], theta.components.sample(what))

    return jax.vmap(draw)(jax.random.split(key, count))
