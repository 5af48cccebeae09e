"""Which states of a chain some path reaches: hard zeros forbid the others, however well these fit the data."""

import jax
import jax.numpy as jnp

from ..devices import axes_of, varying
from ..numerics import IMPOSSIBLE, LOG_ZERO
from .chain_factors import product
from .chain_path import Path, steps_mask
from .chain_unless import unless

# The scaled passes keep what falls far behind at a floor (`chain_factors`), which would also lend a little weight to a
# state that nothing reaches, and through it to others. So a state is made impossible in the frames in which no path
# reaches it. That changes no path and no bound.


def without_unreached(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states' potentials [T, K], `LOG_ZERO` where no path leads to a state, and whether one reaches the end.

    For one table of transitions; a search only where something is forbidden.
    """
    initial, transitions, states = potentials

    def search(potentials, length):
        reach, arrives = reached(potentials, length)
        return jnp.where(reach, potentials.states, LOG_ZERO), arrives

    free = jnp.all(initial > IMPOSSIBLE) & jnp.all(transitions > IMPOSSIBLE)
    everything = states, varying(jnp.array(True), axes_of(states))
    return unless(free, everything, search, potentials, length)


def reached(potentials: Path, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether a path from the start leads to a state, bool [T, K], true in the padding; whether one reaches the end."""
    initial, transitions, states = potentials
    here = ~(states <= IMPOSSIBLE)
    inside = steps_mask(len(states), length)

    def step(before, x):
        possible, transition, counts = x
        transition = transitions if potentials.homogeneous else transition
        leads = product(before.astype(states.dtype), (~(transition <= IMPOSSIBLE)).astype(states.dtype), 0) > 0
        after = jnp.where(counts, leads & possible, True)
        return after, after

    first = ~(initial <= IMPOSSIBLE) & here[0]
    _, rest = jax.lax.scan(step, first, (here[1:], None if potentials.homogeneous else transitions, inside))
    found = jnp.concatenate([first[None], rest])
    return found, jnp.all(jnp.sum(found, axis=1) > 0)
