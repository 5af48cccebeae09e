"""Binary latents: a vector of independent bits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..numerics import LOG_ZERO, on_support
from . import event
from .derive import StructureError, affine_potentials
from .protocol import same_shapes


@event.register
@dataclass(frozen=True)
class BernoulliPosterior:
    """Independent bits: P(z) ∝ exp ⟨logits, z⟩, z in {0, 1}.

    Args:
      logits: log odds of 1, any shape, floating point. Clipped to ±`LOG_ZERO`.

    >>> q = BernoulliPosterior(jnp.array([0.0, jnp.log(3.0)]))
    >>> q.mean().tolist(), q.mode().tolist(), q.entropy().tolist()
    ([0.5, 0.75], [0.0, 1.0], 1.2555)
    """

    logits: jax.Array
    reparameterized: ClassVar[bool] = False

    def __post_init__(self):
        event.remember_rank(self, self.logits)

    def log_partition(self) -> jax.Array:
        """ln Σ_z exp ⟨logits, z⟩, a scalar."""
        return jnp.sum(jax.nn.softplus(self._logits()))

    def sample(self, key: jax.Array) -> jax.Array:
        """One vector of bits, shaped like logits."""
        p = self.mean()
        return jnp.where(jnp.isnan(p), p, jax.random.bernoulli(key, p).astype(p.dtype))

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln P(z), affine in z; `LOG_ZERO` for a z outside [0, 1]."""
        logits = self._logits()
        same_shapes("z", z, logits)
        value = jnp.sum(z * jax.nn.log_sigmoid(logits) + (1 - z) * jax.nn.log_sigmoid(-logits))
        return on_support(value, jnp.all((z >= 0) & (z <= 1)))

    def entropy(self) -> jax.Array:
        """−Σ p ln p + (1 − p) ln(1 − p)."""
        logits = self._logits()
        on, off = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)  # 1 - on would round away a small off
        return -jnp.sum(on * jax.nn.log_sigmoid(logits) + off * jax.nn.log_sigmoid(-logits))

    def mode(self) -> jax.Array:
        """1 where a bit is more probable than not."""
        logits = self._logits()
        return jnp.where(jnp.isnan(logits), logits, (logits > 0).astype(logits.dtype))

    def mean(self) -> jax.Array:
        """Probabilities of 1, the gradient of `log_partition`."""
        return jax.nn.sigmoid(self._logits())

    def support(self) -> jax.Array:
        """Every value of z, [2^D, D], for a vector of at most 16 bits."""
        bits = self._logits().size
        if self.logits.ndim != 1 or bits > 16:
            raise StructureError(
                f"logits: got {list(self.logits.shape)}; support() lists the values of a vector of at most 16 bits"
            )
        return ((jnp.arange(2**bits)[:, None] >> jnp.arange(bits)) & 1).astype(self.logits.dtype)

    def _logits(self) -> jax.Array:
        event.require_datum(self, logits=self.logits)
        return jnp.clip(self.logits, LOG_ZERO, -LOG_ZERO)


@dataclass(frozen=True)
class bernoulli:  # noqa: N801 - reads as a function: exact(log_joint, bernoulli(8))
    """Structure of binary latents of the given shape: `bernoulli(D)`.

    >>> bernoulli(8).shape
    (8,)
    """

    shape: tuple[int, ...]

    def __init__(self, *shape: int):
        object.__setattr__(self, "shape", shape)

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> BernoulliPosterior:
        """The exact posterior: its log odds are the gradient of log_joint. Raises unless log_joint is affine."""
        return BernoulliPosterior(affine_potentials(log_joint, self.shape))
