"""What is slow and always right, only where what is fast is not: one branch for a whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

Tree = Any


def unless(right: jax.Array, fast: Tree, slow: Callable[..., Tree], *args: Tree) -> Tree:
    """fast if all that was computed is right, else slow(*args).

    Under vmap one branch serves the whole batch: a jax.lax.cond on its own would run both branches of it, always.
    """
    return mended(right, fast, lambda _, *args: slow(*args), *args)


def mended(right: jax.Array, value: Tree, mend: Callable[..., Tree], *args: Tree) -> Tree:
    """value if all that was computed is right, else mend(value, *args); see `unless`."""

    @custom_vmap
    def choose(right, value, args):
        # a loop of at most one turn, for a jax.lax.cond would copy what is fast; and what the body reads has to depend
        # on the loop, lest the compiler computes it beforehand
        def turn(state):
            right, value = state
            _, here = jax.lax.optimization_barrier((right, args))
            return ~right, mend(value, *here)

        return jax.lax.while_loop(lambda state: ~state[0], turn, (jnp.all(right), value))[1]

    @choose.def_vmap
    def batch(size, batched, right, value, args):
        def spread(value, is_batched):
            return value if is_batched else jnp.broadcast_to(value, (size, *jnp.shape(value)))

        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched[2])
        every = jax.vmap(mend, (0, *axes), axis_size=size)
        value = mended(right, jax.tree.map(spread, value, batched[1]), every, *args)
        return value, jax.tree.map(lambda _: True, value)

    return choose(right, value, args)
