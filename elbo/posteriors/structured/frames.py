"""Frames of a padded sequence: which of them count, noise for each, and what is raised where their number is wrong."""

from typing import Any

import jax
import jax.numpy as jnp


def steps_mask(frames: int, length: jax.Array) -> jax.Array:
    """Which of the T-1 steps from a frame to the next lie within the length, bool [T-1]."""
    return jnp.arange(1, frames) < length


def gumbel(key: jax.Array, frames: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Gumbel noise [frames, *shape], with a key for each frame: draws do not depend on the amount of padding."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(frames))
    return jax.vmap(lambda k: jax.random.gumbel(k, shape, dtype))(keys)


def require_length(name: str, length: Any, least: int, most: int, of: str) -> None:
    """Raises unless length is an int scalar, and in least..most where it is known; `of` says what it counts.

    >>> require_length("length", 5, 1, 3, "the frames of states; drop empty sequences")
    Traceback (most recent call last):
    ValueError: length: got 5, expected 1 to 3, the frames of states; drop empty sequences
    """
    if jnp.shape(length) != () or not jnp.issubdtype(jnp.result_type(length), jnp.integer):
        raise ValueError(
            f"{name}: got {jnp.result_type(length)}{list(jnp.shape(length))}, expected an int scalar, {of}; use "
            "jax.vmap over a batch"
        )
    if not isinstance(length, jax.core.Tracer) and not least <= int(length) <= most:
        raise ValueError(f"{name}: got {int(length)}, expected {least} to {most}, {of}")


def require_states(states: Any, frames: int) -> None:
    """Raises unless states are integers [frames]."""
    if jnp.shape(states) != (frames,) or not jnp.issubdtype(jnp.result_type(states), jnp.integer):
        raise ValueError(
            f"states: got {jnp.result_type(states)}{list(jnp.shape(states))}, expected integers [{frames}], the state "
            "of each frame; use jax.vmap over a batch"
        )


def at(x: jax.Array, t: jax.Array) -> jax.Array:
    """x[t] within a loop."""
    # by its index, lest the compiler merges what computes all of x with cutting off the first frame
    return jax.lax.dynamic_index_in_dim(x, t, keepdims=False)
