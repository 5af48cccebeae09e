"""Independent counts."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from elbo import PRECISION, safe_log
from elbo.extend import density, tapped, told
from elbo.numerics import on_support

from ._checks import NONE, check_event, divide, floating, is_forbidden, log_estimate


class Statistics(NamedTuple):
    """Sums over data.

    Attributes:
      exposure: Σ e^offset, [*batch, D]; Σ 1 without offsets.
      total: Σ x, [*batch, D].
    """

    exposure: jax.Array
    total: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Poisson:
    """ln P(x) = Σ_d x_d ln rate_d − rate_d − ln x_d!; x is D counts, as floating-point numbers.

    A datum with an `offset` has the rate rate_d e^offset: the logarithm of how long, or how many, were watched. Its
    maximum likelihood is Σ x / Σ e^offset.

    Args:
      log_rate: ln of the expected counts, [*batch, D], any values; `LOG_ZERO` for rate 0.

    >>> f = Poisson.create(jnp.array([2.0, 0.0]))
    >>> f.log_prob(jnp.array([2.0, 0.0])).tolist()  # 2 ln 2 - 2 - ln 2
    -1.3069
    >>> f.log_prob(jnp.array([2.0, 0.0]), offset=jnp.log(3.0)).tolist()  # rate 6: 2 ln 6 - 6 - ln 2
    -3.1096
    """

    log_rate: jax.Array
    tap: Any = None

    @classmethod
    def create(cls, rate: jax.Array) -> "Poisson":
        """The family with the given expected counts [*batch, D]; NaN where one is negative."""
        rate = floating("rate", rate, 1)
        return cls(jnp.where(rate >= 0, safe_log(rate), jnp.nan))

    def __repr__(self) -> str:
        return told(self, rate=self.rate)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of components."""
        return self.log_rate.shape[:-1]

    @property
    def event_size(self) -> int:
        """D."""
        return self.log_rate.shape[-1]

    def rate(self) -> jax.Array:
        """Expected counts, [*batch, D]."""
        return jnp.exp(self.log_rate)

    @density
    def log_prob(self, x: jax.Array, offset: jax.Array | None = None) -> jax.Array:
        """ln P(x) of one datum x [D] under each component, [*batch], nats; `LOG_ZERO` unless x is 0, 1, 2, ...

        Args:
          x: counts, [D], floating point.
          offset: ln of the exposure that multiplies the rates, a scalar or [D]; 0 by default.
        """
        check_event("x", x, (self.event_size,))
        if offset is not None:
            check_event("offset", offset, (self.event_size,) if jnp.ndim(offset) else ())
        supported = self.supports(x)
        x = jnp.where(supported, x, 0)
        # relative to one rate amid all components': large terms that cancel are not formed, however large the counts
        components = tuple(range(len(self.batch_shape)))
        centre = logsumexp(self.log_rate, components) - math.log(math.prod(self.batch_shape))
        centre = jax.lax.stop_gradient(centre)
        ratio = self.log_rate - centre
        if offset is not None:
            centre = centre + offset
        value = jnp.dot(ratio, x, precision=PRECISION) - jnp.sum(jnp.exp(centre) * jnp.expm1(ratio), -1)
        value = value + jnp.sum(_log_prob(x, centre))
        if offset is None:
            return on_support(tapped(_contract, value, self.tap, x), supported)
        exposure = jnp.broadcast_to(jnp.exp(offset), x.shape)
        return on_support(tapped(_contract_exposed, value, self.tap, x, exposure), supported)

    def supports(self, x: jax.Array) -> jax.Array:
        """Whether x [D] can be a datum: 0, 1, 2, ...; a bool."""
        return jnp.all((x >= 0) & (x == jnp.floor(x)) & (x < jnp.inf))

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw per component, floating point, [*batch, D]."""
        return jax.random.poisson(key, self.rate()).astype(self.log_rate.dtype)

    def zero_statistics(self) -> Statistics:
        """Statistics of no data."""
        return Statistics(jnp.zeros_like(self.log_rate), jnp.zeros_like(self.log_rate))

    def free_parameters(self) -> int:
        """How many free numbers: the rates, without those that are 0 by `create`. Not under jit."""
        return int(np.sum(~np.asarray(is_forbidden(self.log_rate))))

    def named(self) -> dict[str, jax.Array]:
        """The parameters by their usual names."""
        return {"rate": self.rate()}

    def at_bound(self, statistics: Statistics) -> dict[str, jax.Array]:
        """Which numbers stand at the end of their range, by field."""
        return {"log_rate": statistics.total < NONE}

    def empty(self, statistics: Statistics) -> jax.Array:
        """Components without data (or exposure), bool [*batch]."""
        return jnp.all(statistics.exposure <= 0, -1)

    def log_likelihood(self, statistics: Statistics) -> jax.Array:
        """Σ ln P(x) + ln x! − x · offset of the data behind the statistics, a scalar in nats."""
        return jnp.sum(statistics.total * self.log_rate) - jnp.sum(statistics.exposure * self.rate())

    def maximize(self, statistics: Statistics) -> "Poisson":
        """Mean counts per exposure."""
        log_rate = log_estimate(divide(statistics.total, statistics.exposure), self.log_rate)
        return Poisson(jnp.where(statistics.exposure > 0, log_rate, self.log_rate))

    def statistics_of(self, reference: "Poisson") -> Statistics:
        """E T(x) of one datum x ~ reference: its rates."""
        total = jnp.broadcast_to(reference.rate(), self.log_rate.shape)
        return Statistics(jnp.ones_like(total), total)

    def expected(self, statistics: Statistics) -> Statistics:
        """The statistics expected of as many data drawn from this family."""
        return Statistics(statistics.exposure, statistics.exposure * self.rate())

    def rebase(self, statistics: Statistics, old: "Poisson") -> Statistics:
        """What this family would have measured where `old` measured the statistics: the same."""
        return statistics


def _contract(tap: Statistics, x: jax.Array) -> jax.Array:
    return jnp.sum(tap.exposure, -1) + jnp.dot(tap.total, x, precision=PRECISION)


def _contract_exposed(tap: Statistics, x: jax.Array, exposure: jax.Array) -> jax.Array:
    return jnp.dot(tap.exposure, exposure, precision=PRECISION) + jnp.dot(tap.total, x, precision=PRECISION)


def _log_prob(x: jax.Array, log_rate: jax.Array) -> jax.Array:
    """ln P(x) elementwise, by the deviance and the Stirling series where counts are large (Loader 2000)."""
    rate = jnp.exp(log_rate)
    large = x > 16
    n = jnp.where(large, x, 16)
    near = large & (abs(x - rate) < 0.5 * rate)
    t = jnp.where(near, (x - rate) / jnp.where(near, rate, 1), 0)
    deviance = jnp.where(near, rate * ((1 + t) * jnp.log1p(t) - t), n * (jnp.log(n) - log_rate) - n + rate)
    stirling = 0.5 * jnp.log(2 * math.pi * n) + (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * n**2)) / n**2) / n**2) / n
    return -jnp.where(large, deviance + stirling, rate - x * log_rate + gammaln(x + 1))
