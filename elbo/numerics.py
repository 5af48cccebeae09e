"""Log zero, safe logarithms and feasibility: how an impossible event is written without ever making a NaN."""

import jax
import jax.numpy as jnp

LOG_ZERO = -1e30
"""Finite stand-in for ln 0, in nats. `0 * LOG_ZERO` is 0, where `0 * -inf` is NaN."""

PRECISION = jax.lax.Precision.HIGHEST
"""Precision of every contraction that forms a likelihood or a statistic (accelerators default to TF32 or bf16)."""


def safe_log(p: jax.Array) -> jax.Array:
    """Natural logarithm whose value at p <= 0 is `LOG_ZERO` and whose gradient there is 0.

    Args:
      p: non-negative numbers, any shape, floating point.

    >>> safe_log(jnp.array([1.0, 0.0])).tolist() == [0.0, jnp.float32(LOG_ZERO).item()]
    True
    """
    positive = p > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), LOG_ZERO)


def is_feasible(log_probability: jax.Array) -> jax.Array:
    """Whether a log probability (nats, any shape) is a number, and not that of an impossible event.

    >>> is_feasible(jnp.array([-3.0, LOG_ZERO, -jnp.inf, jnp.nan])).tolist()
    [True, False, False, False]
    """
    return jnp.isfinite(log_probability) & (log_probability > 0.1 * LOG_ZERO)
