"""Gaussians with a diagonal covariance."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from elbo.extend import density, tapped, told

from ._checks import (
    at_floor,
    at_least,
    check_event,
    check_shape,
    divide,
    floating,
    rounding_of,
    update_log_scale,
    weighted,
)


class Statistics(NamedTuple):
    """Sums over data of functions of the whitened residual u = (x − mean) / scale of the measuring family.

    Attributes:
      count: Σ weight, [*batch]; Σ 1 where data have none.
      first: Σ weight u, [*batch, D].
      second: Σ weight u², [*batch, D].
      scale_count: Σ 1 for the scale, [*batch]; differs from count where data have weights, or a
        prior speaks of one of the two.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    first: jax.Array
    second: jax.Array
    scale_count: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normal:
    """x_d ~ N(mean_d, scale_d²), independent, with scale = max(exp(log_scale), floor); every value is valid.

    The floor is part of the density, so that it binds every rule alike; below it, log_scale says nothing.

    A datum with a `weight` has the variances scale_d² / weight, the mean of so many data. Scale mixtures of Gaussians,
    such as Student's t, are mixtures over the weight. (A datum that counts w times is w * log_prob(x).)

    Args:
      mean: [*batch, D].
      log_scale: ln of the standard deviations, [*batch, D].
      floor: smallest standard deviation, [D] or a scalar, in data units; 0 for none.

    >>> f = Normal.create(jnp.zeros(2), jnp.array([1.0, 2.0]))
    >>> f.log_prob(jnp.array([0.0, 2.0])).tolist()  # -ln 2π - ln 2 - 1/2
    -3.0310
    >>> f.log_prob(jnp.array([0.0, 2.0]), weight=4.0).tolist()  # standard deviations ½ and 1: -ln 2π + ln 2 - 2
    -3.1447
    """

    mean: jax.Array
    log_scale: jax.Array
    floor: jax.Array
    tap: Any = None
    fixed: ClassVar[tuple[str, ...]] = ("floor",)

    @classmethod
    def create(cls, mean: jax.Array, scale: jax.Array, *, floor: jax.Array | float = 0.0) -> "Normal":
        """The family with the given means and standard deviations, [*batch, D]; NaN where scale is not positive."""
        mean = floating("mean", mean, 1)
        scale = check_shape("scale", scale, mean.shape)
        return cls(mean, jnp.log(jnp.where(scale > 0, scale, jnp.nan)), jnp.asarray(floor, mean.dtype))

    def __repr__(self) -> str:
        return told(self, mean=lambda: self.mean, scale=self.scale)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of components."""
        return self.mean.shape[:-1]

    @property
    def event_size(self) -> int:
        """D."""
        return self.mean.shape[-1]

    def scale(self) -> jax.Array:
        """Standard deviations, [*batch, D]."""
        return jnp.exp(self._log_scale())

    def floored(self) -> jax.Array:
        """Which standard deviations stand at the floor, bool [*batch, D]."""
        return at_floor(self.log_scale, self.floor)

    def project(self) -> "Normal":
        """The same distribution, with no log_scale below the floor's: from there a gradient can lead up again."""
        return Normal(self.mean, self._log_scale(), self.floor, self.tap)

    @density
    def log_prob(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """ln N(x; mean, diag scale² / weight) of one datum x [D] under each component, [*batch], nats.

        Args:
          x: [D].
          weight: precision of this datum relative to the family's, a scalar > 0; 1 by default.
        """
        check_event("x", x, (self.event_size,))
        # elementwise: products of x² and x with matrices would be E[x²] − mean²
        log_scale = self._log_scale()
        u = (x - self.mean) * jnp.exp(-log_scale)
        constant = 0.5 * self.event_size * math.log(2 * math.pi) + jnp.sum(log_scale, -1)
        square = jnp.sum(jnp.square(u), -1)
        if weight is None:
            return tapped(_contract, -0.5 * square - constant, self.tap, u)
        check_event("weight", weight, ())
        value = -0.5 * (weight * square - self.event_size * jnp.log(weight)) - constant
        return tapped(_contract_weighted, value, self.tap, weight, u)

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw per component, [*batch, D]."""
        return self.mean + self.scale() * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def zero_statistics(self) -> Statistics:
        """Statistics of no data."""
        zeros = jnp.zeros_like(self.mean)
        return Statistics(zeros[..., 0], zeros, zeros, zeros[..., 0])

    def free_parameters(self) -> int:
        """How many free numbers the batch of components has."""
        return self.mean.size + self.log_scale.size

    def named(self) -> dict[str, jax.Array]:
        """The parameters by their usual names."""
        return {"mean": self.mean, "variance": self.scale() ** 2}

    def at_bound(self, statistics: Statistics) -> dict[str, jax.Array]:
        """Which numbers stand at the end of their range, by field."""
        return {"log_scale": self.floored()}

    def empty(self, statistics: Statistics) -> jax.Array:
        """Components without data, bool [*batch]."""
        return statistics.count <= 0

    def log_likelihood(self, statistics: Statistics) -> jax.Array:
        """Σ ln N(x; mean, diag scale²) of the data behind the statistics, a scalar in nats."""
        constant = jnp.sum(self._log_scale(), -1) + 0.5 * self.event_size * math.log(2 * math.pi)
        return -0.5 * jnp.sum(statistics.second) - jnp.sum(statistics.scale_count * constant)

    def maximize(self, statistics: Statistics) -> "Normal":
        """Means and standard deviations of the data, the latter no less than the floor."""
        count, first, second, scale_count = statistics
        shift = divide(first, count[..., None])
        residual, total = second - first * shift, scale_count[..., None]
        log_scale = self._log_scale()
        terms = rounding_of(self.mean * jnp.exp(-log_scale))
        log_scale = update_log_scale(log_scale, residual, second, total, self.floor, terms)
        return Normal(self.mean + self.scale() * shift, log_scale, self.floor)

    def statistics_of(self, reference: "Normal") -> Statistics:
        """E T(x) of one datum x ~ reference, in this family's coordinates; what pseudo-data are made of."""
        first = (reference.mean - self.mean) * jnp.exp(-self._log_scale())
        count = jnp.ones_like(first[..., 0])
        return Statistics(count, first, first**2 + self._ratio(reference) ** 2, count)

    def scale_statistics_of(self, reference: "Normal") -> Statistics:
        """The same for a datum of which only the spread around the family's own mean counts."""
        zeros = jnp.zeros_like(self.mean)
        return Statistics(zeros[..., 0], zeros, self._ratio(reference) ** 2, jnp.ones_like(zeros[..., 0]))

    def expected(self, statistics: Statistics) -> Statistics:
        """The statistics expected of as many data drawn from this family."""
        count, scale_count = statistics.count, statistics.scale_count
        zeros = jnp.zeros_like(statistics.first)
        return Statistics(count, zeros, zeros + scale_count[..., None], scale_count)

    def rebase(self, statistics: Statistics, old: "Normal") -> Statistics:
        """What this family would have measured where `old` measured the statistics of data (not of a prior)."""
        count, first, second, scale_count = statistics
        # u = ratio · old u + shift
        ratio, shift = self._ratio(old), (old.mean - self.mean) * jnp.exp(-self._log_scale())
        first, constant = ratio * first, count[..., None] * shift
        return Statistics(count, first + constant, ratio**2 * second + (2 * first + constant) * shift, scale_count)

    def _ratio(self, reference):
        return jnp.exp(reference._log_scale() - self._log_scale())

    def _log_scale(self):
        return at_least(self.log_scale, self.floor)


def _contract(tap: Statistics, u: jax.Array) -> jax.Array:
    return tap.count + tap.scale_count + jnp.sum((tap.second * u + tap.first) * u, -1)


_contract_weighted = weighted(_contract)
