"""Which states of a chain some path reaches: hard zeros forbid the others, however well these fit the data."""

import jax
import jax.numpy as jnp

from ..._devices import axes_of, varying
from ..._types import PyTree
from ...numerics import IMPOSSIBLE
from ..structured.batching import mend_together
from ..structured.frames import steps_mask
from .factors import product
from .path import Path

# The passes in the probability domain keep what falls far behind at a floor (`factors`), which also lends a little
# weight to a state that nothing reaches, and through it to others that nothing reaches: where a path leads is therefore
# searched for, in a loop over frames of its own. Zeros that EM has found seldom need it: after a few frames every state
# that a frame allows is reached, which one product over all frames tells.
_FEW = 32


def where_reached(weights: PyTree, potentials: Path, length: jax.Array) -> tuple[PyTree, jax.Array]:
    """Weights of states, a pytree of arrays [T, K], 0 where no path leads to a state; whether one reaches the end.

    For one table of transitions; a search only where something is forbidden.
    """

    def everywhere(carried, potentials, length):
        found, arrives = reached(potentials, length)
        return jax.tree.map(lambda w: jnp.where(found, w, 0), carried[0]), arrives

    def search(carried, potentials, length):
        initial, transitions, states = potentials
        few = min(len(states), _FEW)
        found, arrives = reached(Path(initial, transitions, states[:few]), length)
        first = jax.tree.map(lambda w: w.at[:few].set(jnp.where(found, w[:few], 0)), carried[0])
        # from then on every state that a frame allows is reached from some state that the frame before allows
        allowed = ~(states <= IMPOSSIBLE)
        leads = jnp.matmul(
            allowed[few - 1 : -1].astype(states.dtype), (~(transitions <= IMPOSSIBLE)).astype(states.dtype)
        )
        outside = (jnp.arange(few, len(states)) >= length)[:, None]
        opened = jnp.all(found[-1] == allowed[few - 1]) & jnp.all(outside | (leads > 0) | ~allowed[few:])
        opened = arrives & ((few >= length) | opened)
        return mend_together(opened, (first, arrives), everywhere, potentials, length)

    free = jnp.all(potentials.initial > IMPOSSIBLE) & jnp.all(potentials.transitions > IMPOSSIBLE)
    return mend_together(free, (weights, varying(jnp.array(True), axes_of(potentials))), search, potentials, length)


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
