"""Categorical distributions over V values."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO, PRECISION, safe_log
from elbo.extend import density, tapped, told
from elbo.numerics import on_support, widen

from ._checks import NONE, is_forbidden, log_estimate


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Categorical:
    """P(x = v) = softmax(logits)_v; x is an integer, or an indicator (or a mean of indicators) [V].

    Statistics: Σ of the indicator of x, [*batch, V].

    Args:
      logits: [*batch, V], any values; `LOG_ZERO` for probability 0.

    >>> f = Categorical.create(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> jnp.exp(f.log_prob(1)).tolist(), jnp.exp(f.log_prob(jnp.array([1.0, 0.0]))).tolist()
    ([0.5, 0.75], [0.5, 0.25])
    """

    logits: jax.Array
    tap: Any = None

    @classmethod
    def create(cls, probabilities: jax.Array) -> "Categorical":
        """The family with the given probabilities [*batch, V], up to a factor; NaN where one is negative."""
        p = jnp.asarray(probabilities)
        return cls(jnp.where(p >= 0, safe_log(p), jnp.nan))

    def __repr__(self) -> str:
        return told(self, probabilities=self.probabilities)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of distributions."""
        return self.logits.shape[:-1]

    @property
    def values(self) -> int:
        """V."""
        return self.logits.shape[-1]

    def probabilities(self) -> jax.Array:
        """[*batch, V]."""
        return jax.nn.softmax(self.logits)

    @density
    def log_prob(self, x: jax.Array, *, latent: bool = False) -> jax.Array:
        """ln P(x) of one x (an integer scalar, or an indicator [V]) under each distribution, [*batch], nats.

        An integer outside 0..V-1 is impossible: `LOG_ZERO`. So is an indicator with a negative entry; sums of
        indicators, which latent paths are made of, are not: ln P is affine in x. What data may be, says `supports`.

        Args:
          x: see above.
          latent: whether x is an indicator that a posterior gives, which needs no check.
        """
        log_p = jax.nn.log_softmax(self.logits)
        x = _index(x)
        if jnp.issubdtype(x.dtype, jnp.integer):
            if x.ndim:
                raise ValueError(
                    f"x: got integers {list(x.shape)}, expected one integer scalar; use jax.vmap over a batch of data"
                )
            x = jnp.where(x < 0, self.values, x)  # a negative index would count from the end
            value = jnp.take(log_p, x, axis=-1, mode="fill", fill_value=LOG_ZERO)
            return tapped(_contract_index, value, self.tap, x)
        if x.shape != (self.values,):
            raise ValueError(
                f"x: got {x.dtype}{list(x.shape)}, expected an integer scalar or an indicator [{self.values}]"
            )
        value = tapped(_contract, jnp.dot(log_p, x, precision=PRECISION), self.tap, x)
        return value if latent else on_support(value, jnp.all(x >= 0))

    def supports(self, x: jax.Array) -> jax.Array:
        """Whether x can be a datum: an integer in 0..V-1, or non-negative numbers [V] whose sum is 1; a bool."""
        x = _index(x)
        if jnp.issubdtype(x.dtype, jnp.integer):
            return (x >= 0) & (x < self.values)
        return jnp.all(x >= 0) & (abs(jnp.sum(x) - 1) < 1e-3)

    def sample(self, key: jax.Array) -> jax.Array:
        """One integer per distribution, [*batch]."""
        return jax.random.categorical(key, self.logits)

    def zero_statistics(self) -> jax.Array:
        """Statistics of no data."""
        return jnp.zeros_like(self.logits)

    def free_parameters(self) -> int:
        """How many free numbers: the probabilities that the model does not forbid, less one for each distribution.

        A 0 is forbidden where `create` was given it (or a logit is `LOG_ZERO`), and `maximize` keeps it; a 0 that
        `maximize` found is free. Not under jit.
        """
        possible = np.sum(~np.asarray(is_forbidden(self.logits)), -1)
        return int(np.sum(np.maximum(possible - 1, 0)))

    def named(self) -> dict[str, jax.Array]:
        """The parameters by their usual names."""
        return {"probabilities": self.probabilities()}

    def at_bound(self, statistics: jax.Array) -> dict[str, jax.Array]:
        """Which numbers stand at the end of their range, by field."""
        return {"logits": statistics < NONE}

    def empty(self, statistics: jax.Array) -> jax.Array:
        """Distributions without data, bool [*batch]."""
        return jnp.sum(statistics, -1) <= 0

    def log_likelihood(self, statistics: jax.Array) -> jax.Array:
        """Σ ln P(x) of the data behind the statistics, a scalar in nats."""
        return jnp.sum(statistics * jax.nn.log_softmax(self.logits))

    def maximize(self, statistics: jax.Array) -> "Categorical":
        """Relative frequencies."""
        total = jnp.sum(statistics, -1, keepdims=True)
        frequencies = statistics / jnp.where(total > 0, total, 1)
        return Categorical(jnp.where(total > 0, log_estimate(frequencies, self.logits), self.logits))

    def statistics_of(self, reference: "Categorical") -> jax.Array:
        """E T(x) of one datum x ~ reference: its probabilities."""
        return jnp.broadcast_to(reference.probabilities(), self.logits.shape)

    def expected(self, statistics: jax.Array) -> jax.Array:
        """The statistics expected of as many data drawn from this family."""
        return jnp.sum(statistics, -1, keepdims=True) * self.probabilities()

    def rebase(self, statistics: jax.Array, old: "Categorical") -> jax.Array:
        """What this family would have measured where `old` measured the statistics: the same."""
        return statistics


def _index(x: jax.Array) -> jax.Array:
    """x, where it is an integer or a truth value as int32 at least: V must not be converted to its dtype."""
    x = jnp.asarray(x)
    return widen(x.astype(jnp.int32) if x.dtype == bool and not x.ndim else x)


def _contract(tap: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.dot(tap, x, precision=PRECISION)


def _contract_index(tap: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.take(tap, x, axis=-1, mode="fill", fill_value=0)
