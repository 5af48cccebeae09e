"""Independent bits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo import PRECISION, safe_log
from elbo.extend import density, tapped, told
from elbo.numerics import on_support

from ._checks import NONE, check_event, floating, is_forbidden, log_estimate


class Statistics(NamedTuple):
    """Sums over data. Both values of a bit are counted: one that never came has an exact 0, not a difference of sums.

    Attributes:
      zeros: Σ (1 − x), [*batch, D].
      ones: Σ x, [*batch, D].
    """

    zeros: jax.Array
    ones: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bernoulli:
    """P(x) = Π_d p_d^x_d (1 − p_d)^(1 − x_d) with p = sigmoid(logits); x is D bits, or means of bits in [0, 1].

    Args:
      logits: ln p − ln (1 − p), [*batch, D], any values; ∓1e30 for probabilities 0 and 1.

    >>> f = Bernoulli.create(jnp.array([0.5, 0.25, 1.0]))
    >>> jnp.exp(f.log_prob(jnp.array([1.0, 0.0, 1.0]))).tolist()
    0.375
    """

    logits: jax.Array
    tap: Any = None

    @classmethod
    def create(cls, probabilities: jax.Array) -> "Bernoulli":
        """The family with the given probabilities of 1, [*batch, D]; NaN where one is not in [0, 1]."""
        p = floating("probabilities", probabilities, 1)
        return cls(jnp.where((p >= 0) & (p <= 1), safe_log(p) - safe_log(1 - p), jnp.nan))

    def __repr__(self) -> str:
        return told(self, probabilities=self.probabilities)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of components."""
        return self.logits.shape[:-1]

    @property
    def event_size(self) -> int:
        """D."""
        return self.logits.shape[-1]

    def probabilities(self) -> jax.Array:
        """P(x_d = 1), [*batch, D]."""
        return jax.nn.sigmoid(self.logits)

    @density
    def log_prob(self, x: jax.Array) -> jax.Array:
        """ln P(x) of one datum x [D] under each component, [*batch], nats; affine in x.

        `LOG_ZERO` for an x outside [0, 1]: bits are 0 and 1, not −1 and 1.
        """
        check_event("x", x, (self.event_size,))
        log_one, log_zero = jax.nn.log_sigmoid(self.logits), jax.nn.log_sigmoid(-self.logits)
        # two products: folded into one, x · logits + ln P(0) would lose all digits where a probability is 1
        value = jnp.dot(log_one, x, precision=PRECISION) + jnp.dot(log_zero, 1 - x, precision=PRECISION)
        return on_support(tapped(_contract, value, self.tap, x), self.supports(x))

    def supports(self, x: jax.Array) -> jax.Array:
        """Whether x [D] can be a datum: bits, or means of bits; a bool."""
        return jnp.all((x >= 0) & (x <= 1))

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw per component, floating point, [*batch, D]."""
        return jax.random.bernoulli(key, self.probabilities()).astype(self.logits.dtype)

    def zero_statistics(self) -> Statistics:
        """Statistics of no data."""
        return Statistics(jnp.zeros_like(self.logits), jnp.zeros_like(self.logits))

    def free_parameters(self) -> int:
        """How many free numbers: the probabilities, without those that are 0 or 1 by `create`. Not under jit."""
        return int(np.sum(~np.asarray(is_forbidden(-jnp.abs(self.logits)))))

    def named(self) -> dict[str, jax.Array]:
        """The parameters by their usual names."""
        return {"probabilities": self.probabilities()}

    def at_bound(self, statistics: Statistics) -> dict[str, jax.Array]:
        """Which numbers stand at the end of their range, by field."""
        return {"logits": (statistics.zeros < NONE) | (statistics.ones < NONE)}

    def empty(self, statistics: Statistics) -> jax.Array:
        """Components without data, bool [*batch]."""
        return jnp.sum(statistics.zeros + statistics.ones, -1) <= 0

    def log_likelihood(self, statistics: Statistics) -> jax.Array:
        """Σ ln P(x) of the data behind the statistics, a scalar in nats."""
        log_one, log_zero = jax.nn.log_sigmoid(self.logits), jax.nn.log_sigmoid(-self.logits)
        return jnp.sum(statistics.ones * log_one + statistics.zeros * log_zero)

    def maximize(self, statistics: Statistics) -> "Bernoulli":
        """Relative frequencies."""
        never = -jnp.abs(self.logits)
        logits = log_estimate(statistics.ones, never) - log_estimate(statistics.zeros, never)
        return Bernoulli(jnp.where(statistics.zeros + statistics.ones > 0, logits, self.logits))

    def statistics_of(self, reference: "Bernoulli") -> Statistics:
        """E T(x) of one datum x ~ reference: its probabilities."""
        parts = Statistics(jax.nn.sigmoid(-reference.logits), reference.probabilities())
        return jax.tree.map(lambda p: jnp.broadcast_to(p, self.logits.shape), parts)

    def expected(self, statistics: Statistics) -> Statistics:
        """The statistics expected of as many data drawn from this family."""
        total = statistics.zeros + statistics.ones
        return Statistics(total * jax.nn.sigmoid(-self.logits), total * self.probabilities())

    def rebase(self, statistics: Statistics, old: "Bernoulli") -> Statistics:
        """What this family would have measured where `old` measured the statistics: the same."""
        return statistics


def _contract(tap: Statistics, x: jax.Array) -> jax.Array:
    return jnp.dot(tap.ones, x, precision=PRECISION) + jnp.dot(tap.zeros, 1 - x, precision=PRECISION)
