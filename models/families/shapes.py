"""Shape checks and divisions that all families share."""

import jax
import jax.numpy as jnp


def check_event(name: str, x: jax.Array, shape: tuple[int, ...]) -> None:
    """Raises unless x is one floating-point datum of the given shape."""
    if jnp.shape(x) != shape:
        raise ValueError(
            f"{name}: got shape {list(jnp.shape(x))}, expected {list(shape)}: one datum. Use jax.vmap over a batch of data, and "
            "x[..., None] for scalar data"
        )
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"{name}: got {jnp.result_type(x)}, expected floating point; convert with jnp.asarray(x, float)")


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b, and 0 where b <= 0 (an empty component)."""
    positive = b > 0
    return jnp.where(positive, a / jnp.where(positive, b, 1), 0)


def expand(a: jax.Array, axes: int) -> jax.Array:
    """a with `axes` axes of length 1 appended."""
    return a.reshape(*a.shape, *(1,) * axes)
