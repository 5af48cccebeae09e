"""A path through a chain as an indicator; potentials and marginals of a chain have the same shape."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...numerics import LOG_ZERO
from ..structured.frames import steps_mask


class Path(NamedTuple):
    """The indicator z of a path z_1 … z_T through K states, or its mean: the marginals of a chain.

    Attributes:
      initial: indicator of z_1, [K].
      transitions: counts N_ij = Σ_t [z_t = i, z_{t+1} = j], [K, K]; or the indicator of each step, [T-1, K, K].
      states: indicator of z_t, [T, K]; rows of the padding are zero.

    >>> Path(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((3, 2))).homogeneous
    True
    """

    initial: jax.Array
    transitions: jax.Array
    states: jax.Array

    @property
    def homogeneous(self) -> bool:
        """Whether transitions are summed over the steps."""
        return self.transitions.ndim == 2


def clean(potentials: Path, length: jax.Array) -> Path:
    """Log potentials with zeros in the padding and `LOG_ZERO` for −∞; all NaN where the length is not in 1..T."""
    frames = potentials.states.shape[0]
    initial, transitions, states = potentials
    states = jnp.where((jnp.arange(frames) < length)[:, None], states, 0)
    if not potentials.homogeneous:
        transitions = jnp.where(steps_mask(frames, length)[:, None, None], transitions, 0)
    initial = jnp.where((length >= 1) & (length <= frames), initial, jnp.nan)
    return Path(*(jnp.maximum(a, LOG_ZERO) for a in (initial, transitions, states)))
