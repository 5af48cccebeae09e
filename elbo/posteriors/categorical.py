"""One-hot latents: one categorical variable, or a group of independent ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..numerics import IMPOSSIBLE, LOG_ZERO, on_support
from . import event
from .derive import StructureError, affine_potentials
from .protocol import same_shapes


@event.register
@dataclass(frozen=True)
class CategoricalPosterior:
    """Independent categorical variables as indicators: P(z) ∝ exp Σ_k z_k logits_k, z one-hot in the last axis.

    Where a variable has no possible value, this is the posterior of an impossible datum (see `Posterior`).

    Args:
      logits: unnormalised log probabilities, [K] for one variable, [..., K] for a group, floating point. −∞ counts as
        `LOG_ZERO`.

    >>> q = CategoricalPosterior(jnp.log(jnp.array([1.0, 3.0])))
    >>> q.mean().tolist(), q.mode().tolist(), q.log_partition().tolist()
    ([0.25, 0.75], [0.0, 1.0], 1.3863)
    """

    logits: jax.Array
    reparameterized: ClassVar[bool] = False

    def __post_init__(self):
        event.remember_rank(self, self.logits)

    def log_partition(self) -> jax.Array:
        """ln Σ_z exp ⟨logits, z⟩, a scalar."""
        logits = self._logits()
        return jnp.where(_impossible(logits), LOG_ZERO, jnp.sum(jax.nn.logsumexp(logits, axis=-1)))

    def sample(self, key: jax.Array) -> jax.Array:
        """One indicator, shaped like logits."""
        return self._one_hot(jnp.argmax(self._perturbed(key), axis=-1))

    def relaxed(self, key: jax.Array, temperature: float | jax.Array) -> jax.Array:
        """softmax((logits + noise) / temperature), shaped like logits; `sample(key)` where the temperature is 0."""
        return jax.nn.softmax(self._perturbed(key) / temperature)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln P(z), affine in z; `LOG_ZERO` where an entry of z is negative."""
        logits = self._logits()
        same_shapes("z", z, logits)
        value = jnp.sum(z * jax.nn.log_softmax(logits))
        return on_support(jnp.where(_impossible(logits), LOG_ZERO, value), jnp.all(z >= 0))

    def entropy(self) -> jax.Array:
        """−Σ p ln p."""
        logits = self._logits()
        log_p = jax.nn.log_softmax(logits)
        return jnp.where(_impossible(logits), LOG_ZERO, -jnp.sum(jnp.exp(log_p) * log_p))

    def mode(self) -> jax.Array:
        """The indicator of the largest logits."""
        return self._one_hot(jnp.argmax(self._logits(), axis=-1))

    def mean(self) -> jax.Array:
        """Probabilities, the gradient of `log_partition`."""
        logits = self._logits()
        factors = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
        # one choice for a variable, not one for each of its values, which would be as dear as the exponentials
        share = jnp.where(_impossible(logits), 0, 1 / jnp.sum(factors, axis=-1, keepdims=True))
        return factors * share

    def support(self) -> jax.Array:
        """Every value of z, [K, K]; for one variable only."""
        if self._logits().ndim != 1:
            raise StructureError(
                f"logits: got a group {list(self.logits.shape)}; support() lists the values of one variable [K]"
            )
        return jnp.eye(self.logits.shape[-1], dtype=self.logits.dtype)

    def _logits(self) -> jax.Array:
        event.require_datum(self, logits=self.logits)
        return jnp.maximum(self.logits, LOG_ZERO)

    def _perturbed(self, key: jax.Array) -> jax.Array:
        """Logits with Gumbel noise: the largest is a draw."""
        return self._logits() + jax.random.gumbel(key, self.logits.shape, self.logits.dtype)

    def _one_hot(self, index: jax.Array) -> jax.Array:
        logits = self._logits()
        indicator = jax.nn.one_hot(index, logits.shape[-1], dtype=logits.dtype)
        return jnp.where(_impossible(logits), 0, jnp.where(jnp.any(jnp.isnan(logits)), jnp.nan, indicator))


def _impossible(logits: jax.Array) -> jax.Array:
    """Whether a variable has no possible value, a scalar."""
    return jnp.any(jnp.max(logits, axis=-1) <= IMPOSSIBLE)


@dataclass(frozen=True)
class categorical:  # noqa: N801 - reads as a function: exact(log_joint, categorical(3))
    """Structure of one-hot latents of the given shape: `categorical(K)`, or `categorical(G, K)` for G independent ones.

    >>> categorical(4, 3).shape
    (4, 3)
    """

    shape: tuple[int, ...]

    def __init__(self, *shape: int):
        if not shape or any(not isinstance(n, int | np.integer) or n < 1 for n in shape):
            raise ValueError(f"shape: got {shape}, expected positive whole numbers, the last one the number of values")
        object.__setattr__(self, "shape", shape)

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> CategoricalPosterior:
        """The exact posterior: its log potentials are the gradient of log_joint. Raises unless log_joint is affine."""
        return CategoricalPosterior(affine_potentials(log_joint, self.shape))
