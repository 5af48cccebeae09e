"""Mixtures of any family. With m = model(K):

fit       optim.fit(optim.em_step(m), init(key, ys, K), ys).params
score     elbo.evidence(m)(params, ys), nats, [N]
predict   jax.vmap(lambda y: m.posterior(params, y).mean())(ys), the responsibilities, [N, K]
sample    sample(key, params.theta, count)
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import anywhere

from ._chunks import sum_rows
from ._scales import scales, valid_weights
from .criteria import free_parameters, one_of_each
from .families import Categorical, MultivariateNormal, Normal
from .families._data import data_log_prob, require, require_family, usable
from .families._estimate import estimate_rows
from .kmeans import kmeans, memberships, nearness

Covariance = Literal["full", "tied", "spherical", "diag"]


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
    if z.shape != (theta.weights.values,):
        raise ValueError(
            f"theta: got {theta.weights.values} components, expected the {z.shape[-1]} of mixture.model({z.shape[-1]})"
        )
    # a component so narrow that its squares overflow is impossible, not −inf: 0 · (−inf) is NaN
    log_p = jnp.maximum(data_log_prob(theta.components, y), elbo.LOG_ZERO)
    return theta.weights.log_prob(z, latent=True) + jnp.dot(z, log_p, precision=elbo.PRECISION)


def model(components: int) -> elbo.Model:
    """The mixture model with its exact posterior over the component of each datum.

    >>> components = MultivariateNormal.create(jnp.zeros((2, 1)), jnp.ones((2, 1, 1)))
    >>> theta = Theta(Categorical.create(jnp.array([0.5, 0.5])), components)
    >>> elbo.evidence(model(2))(elbo.Params.tied(theta), jnp.zeros((1, 1))).tolist()  # -½ ln 2π
    [-0.9189]
    """
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(components)))


@anywhere
def init(
    key: jax.Array,
    ys: jax.Array,
    components: int,
    *,
    family: Any = None,
    weights: jax.Array | None = None,
    covariance_type: Covariance = "full",
) -> elbo.Params:
    """Starting parameters by k-means++, pure and vmappable over keys and data sets.

    Args:
      key: PRNG key.
      ys: data, [N, D] floating point; or [N] integers for a `Categorical` family. Data that are not finite, that
        the family cannot give, or whose squares overflow in units of the spread, are left out.
      components: K.
      family: the kind of component, with batch shape (K,) and any parameters; by default `gaussian(ys, K)`, whose
        floor is a thousandth of the spread of each column.
      weights: [N], 1 by default; data of weight 0, or whose weight is NaN, infinite or negative, are
        left out.
      covariance_type: of the default family, see `gaussian`.
    """
    if family is not None:
        require_family(family)
    return _init(key, ys, components, family, weights, covariance_type)


@partial(jax.jit, static_argnames=("components", "covariance_type"))
def _init(key, ys, components, family, weights, covariance_type):
    kind = Categorical if isinstance(family, Categorical) else MultivariateNormal
    ys = elbo.numerics.widen(_array(ys, integers=kind is Categorical))
    real = jnp.issubdtype(ys.dtype, jnp.floating)
    if family is not None and family.batch_shape != (components,):
        raise ValueError(
            f"family: got batch shape {list(family.batch_shape)}, expected [{components}], one a component"
        )
    dtype = ys.dtype if real else family.logits.dtype
    weights = jnp.ones(ys.shape[0], dtype) if weights is None else valid_weights(jnp.asarray(weights))
    share = jnp.where(usable(family, ys), weights, 0).astype(dtype)
    share = share / jnp.maximum(jnp.max(share), jnp.finfo(share.dtype).tiny)
    units = scales(ys, share) if real else None
    if units is not None:
        share = jnp.where(units.within(ys), share, 0)
    start = gaussian(ys, components, covariance_type, weights=share) if family is None else family
    features = ys if real else jax.nn.one_hot(ys, family.values, dtype=share.dtype)
    assignments = kmeans(key, features, components, weights=share).assignments
    stand_in = ys[jnp.argmax(share > 0)]

    def weigh(ys, share, assignments):
        ys = jnp.where((share > 0).reshape(-1, *(1,) * (ys.ndim - 1)), ys, stand_in)
        near = share if units is None else share * nearness(ys, units)
        return share[:, None] * memberships(assignments, near, components), (jnp.nan_to_num(ys) if real else ys,)

    def together(ys, share, assignments):
        member, data = weigh(ys, share, assignments)
        return jnp.broadcast_to(jnp.sum(member, -1, keepdims=True), member.shape), data

    rows = ys, share, assignments
    if family is not None:  # its parameters may be anything: digits are kept from where all components are alike
        start = estimate_rows(start, together, *rows)
    size = sum_rows(lambda counted, *rows: jnp.sum(weigh(*rows)[0] * counted[:, None], 0), *rows)
    theta = Theta(Categorical.create(jnp.where(jnp.sum(size) > 0, size, 1)), estimate_rows(start, weigh, *rows))
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


@partial(jax.jit, static_argnames=("components", "covariance_type"))
def gaussian(
    ys: jax.Array, components: int, covariance_type: Covariance = "full", *, weights: jax.Array | None = None
) -> Any:
    """Gaussian components [K] at the location and with the spread of the data, and a floor of 1e-3 of the spread.

    Args:
      ys: data, [N, D]; a NaN is left out.
      components: K.
      covariance_type: "full", "tied" or "spherical" for a `MultivariateNormal`, "diag" for a `Normal`.
      weights: [N], 1 by default.
    """
    units = scales(_array(ys), weights)
    mean, spread = (jnp.tile(a, (components, 1)) for a in units)
    if covariance_type == "diag":
        return Normal.create(mean, spread, floor=units.floor())
    largest = jnp.max(units.spread)
    scale = {
        "full": spread,
        "tied": units.spread,
        "spherical": jnp.tile(largest * jnp.sqrt(jnp.mean((units.spread / largest) ** 2)), components),
    }
    if covariance_type not in scale:
        raise ValueError(f"covariance_type: got {covariance_type!r}, expected one of {sorted([*scale, 'diag'])}")
    return MultivariateNormal.of_scale(
        mean, scale[covariance_type], covariance_type=covariance_type, floor=units.floor()
    )


def _array(ys: Any, integers: bool = False) -> jax.Array:
    """The data as one array [N, D] of floating-point numbers, or [N] of integers; raises otherwise."""
    if hasattr(ys, "ndim"):
        if ys.ndim == 2 and jnp.issubdtype(ys.dtype, jnp.floating):
            return jnp.asarray(ys)
        if ys.ndim == 1 and integers and jnp.issubdtype(ys.dtype, jnp.integer):
            return jnp.asarray(ys)
    got = f"{ys.dtype}{list(ys.shape)}" if hasattr(ys, "ndim") else f"a {type(ys).__name__}"
    raise ValueError(
        f"ys: got {got}, expected one array of floating-point data [N, D] (scalars: ys[:, None], columns: "
        "jnp.column_stack(...)), or integers [N] with a Categorical family"
    )


def sample(key: jax.Array, theta: Theta, count: int) -> tuple[jax.Array, Any]:
    """Draws from the model: components int [count], data [count, ...]."""
    require(theta.components, "sample", "mixture.sample", "sample(key), one draw per component")

    def draw(key):
        which, what = jax.random.split(key)
        z = theta.weights.sample(which)
        return z, jax.tree.map(lambda a: a[z], theta.components.sample(what))

    return jax.vmap(draw)(jax.random.split(key, count))
