"""Numbers m 2^e: floats taken apart and put together by their bits, exactly."""

import jax
import jax.numpy as jnp
from jax.lax import bitcast_convert_type


def power(e: jax.Array) -> jax.Array:
    """2^e for floats e that hold whole numbers, at most that of the largest number; 0 below the smallest normal one."""
    integer, digits, bias = _layout(e.dtype)
    # added to 1.5 2^digits, a whole number stands in the lowest bits
    low = bitcast_convert_type(jnp.maximum(e, -bias) + (1.5 * 2**digits + bias), integer)
    return bitcast_convert_type(low << digits, e.dtype)


def power_of_integer(e: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """2^e for integers e up to 127, as a float; 0 below the smallest normal number."""
    integer, digits, bias = _layout(dtype)
    field = (e + bias).astype(integer)
    return bitcast_convert_type(jnp.where(field > 0, field, 0) << digits, dtype)


def exponent(x: jax.Array) -> jax.Array:
    """⌊log₂ x⌋ of positive normal numbers, as integers as wide as x."""
    integer, digits, bias = _layout(x.dtype)
    return (bitcast_convert_type(x, integer) >> digits) - bias


def mantissa(x: jax.Array) -> jax.Array:
    """x / 2^⌊log₂ x⌋, in [1, 2), of positive normal numbers."""
    integer, digits, bias = _layout(x.dtype)
    bits = bitcast_convert_type(x, integer)
    return bitcast_convert_type((bits & ((1 << digits) - 1)) | (bias << digits), x.dtype)


def _layout(dtype: jnp.dtype) -> tuple[type, int, int]:
    """The integers as wide as a float, how many binary digits its mantissa has, and the bias of its exponent."""
    numbers = jnp.finfo(dtype)
    return (jnp.int64 if numbers.bits == 64 else jnp.int32), numbers.nmant, numbers.maxexp - 1
