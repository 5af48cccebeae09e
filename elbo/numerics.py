"""Log zero, safe logarithms and feasibility: how an impossible event is written without ever making a NaN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LOG_ZERO = -1e30
"""Finite stand-in for ln 0, in nats. `0 * LOG_ZERO` is 0, where `0 * -inf` is NaN."""

IMPOSSIBLE = 1e-6 * LOG_ZERO
"""A log probability at or below this is that of an impossible event: an indicator need not be exactly one-hot."""

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
    return jnp.isfinite(log_probability) & (log_probability > IMPOSSIBLE)


def within(x: jax.Array, low: float, high: float) -> jax.Array:
    """x moved into low..high, from which rounding took it; its derivative is that of x. Elementwise, any shape.

    >>> within(jnp.array([-1e-7, 0.5, 1.0000001]), 0, 1).tolist(), jax.grad(within)(-1e-7, 0.0, 1.0).tolist()
    ([0.0, 0.5, 1.0], 1.0)
    """
    # the difference is exact for an x close to its bound
    return x + jax.lax.stop_gradient(jnp.clip(x, low, high) - x)


def require_number(name: str, value: Any, holds: Callable[[Any], Any], expected: str) -> None:
    """Raises unless value is one number for which `holds`; of a traced one, which has no value yet, only the shape.

    >>> require_number("rate", 2.0, lambda rate: rate <= 1, "a number <= 1")
    Traceback (most recent call last):
    ValueError: rate: got 2.0, expected a number <= 1
    """
    if jnp.shape(value) != ():
        raise ValueError(f"{name}: got shape {list(jnp.shape(value))}, expected {expected}")
    # of an array that is known, in numpy: under a trace, jax.numpy traces what is asked of it too
    if not isinstance(value, jax.core.Tracer) and not holds(np.asarray(value)):
        raise ValueError(f"{name}: got {value}, expected {expected}")


def all_finite(tree: Any) -> jax.Array:
    """Whether each of the floating-point numbers of a pytree is finite; a bool scalar.

    Of a large matrix, the largest and the smallest number of each column are asked, which are NaN where one of them
    is: faster than flags for each number, which compilers write to memory. A sum may overflow.

    >>> bool(all_finite({"x": jnp.array([1.0, jnp.nan]), "length": jnp.array(2)}))
    False
    """
    finite = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            wide = jnp.ndim(leaf) > 1 and min(leaf.shape) >= 32
            asked = (jnp.max(leaf, 0), jnp.min(leaf, 0)) if wide else (leaf,)
            finite &= jnp.all(jnp.array([jnp.all(jnp.isfinite(a)) for a in asked]))
    return finite


@jax.jit
def on_support(value: jax.Array, inside: jax.Array) -> jax.Array:
    """A log probability where its argument is one that the distribution knows (inside, a bool), else `LOG_ZERO`.

    Where the argument is a latent indicator, the value keeps its structure in it (affine, say): a check is no term.

    >>> on_support(jnp.array([-1.0, 16.0]), jnp.array([True, False])).tolist() == [-1.0, jnp.float32(LOG_ZERO).item()]
    True
    """
    return jnp.where(inside, value, LOG_ZERO)


def widen(tree: Any) -> Any:
    """The integer arrays of a pytree as int32 at least; other leaves, bool among them, as they are.

    JAX converts a Python number to the dtype of the array that it meets: `jnp.uint8(44) < 300` asks whether 44 < 44. So
    integers (symbols, counts, lengths) are widened where they come in. Numbers that int32 cannot hold (uint32 without
    x64) become negative, which no symbol, count or length is.

    >>> int(widen(jnp.array(44, jnp.uint8)) < 300), widen(jnp.zeros(2, bool)).dtype
    (1, dtype('bool'))
    """

    def wide(leaf):
        dtype = jnp.result_type(leaf)
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(dtype, jnp.integer) or dtype in (jnp.int32, jnp.int64):
            return leaf
        large = jnp.iinfo(dtype).bits >= 32
        return jnp.asarray(leaf).astype(jax.dtypes.canonicalize_dtype(jnp.int64) if large else jnp.int32)

    return jax.tree.map(wide, tree)


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """ln(1 + e^x), elementwise, any shape: −ln(1 − p) of a bit with log odds x. Value and slope share one exponential.

    >>> softplus(jnp.array([0.0, 1000.0, -1000.0])).tolist()
    [0.6931, 1000.0, 0.0]
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (direction,) = primals, tangents
    small = jnp.exp(-jnp.abs(x))
    slope = jnp.where(x >= 0, 1, small) / (1 + small)
    return jnp.maximum(x, 0) + jnp.log1p(small), slope * direction
