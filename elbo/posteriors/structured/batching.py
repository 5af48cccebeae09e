"""Branches and loops under vmap: what is slow and always right only where what is fast is not, one loop for a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ..._types import PyTree


def unless(right: jax.Array, fast: PyTree, slow: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """fast if all that was computed is right, else slow(*args).

    Under vmap one branch serves the whole batch: a jax.lax.cond on its own would run both branches of it, always.
    """
    return mended(right, fast, lambda _, *args: slow(*args), *args)


def mended(right: jax.Array, value: PyTree, mend: Callable[..., PyTree], *args: PyTree) -> PyTree:
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


def unless_each(right: jax.Array, fast: PyTree, slow: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """fast if all that was computed is right, else slow(*args), under vmap only for those where it is not.

    A jax.lax.cond on its own would run both branches under vmap. Data are taken one after the other: in log space
    even one of them needs much memory.
    """

    @custom_vmap
    def choose(right, fast, args):
        return jax.lax.cond(right, lambda: fast, lambda: slow(*args))

    @choose.def_vmap
    def batch(size, batched, right, fast, args):
        def spread(value, is_batched):
            return value if is_batched else jnp.broadcast_to(value, (size, *jnp.shape(value)))

        right, fast = jax.tree.map(spread, (right, fast), tuple(batched[:2]))
        leaves, treedef = jax.tree.flatten(args)
        moving = jax.tree.leaves(batched[2])
        shared = [leaf for leaf, moves in zip(leaves, moving, strict=True) if not moves]

        def every(right, fast, own, shared):
            def one(each):
                right, fast, own = each
                own, rest = iter(own), iter(shared)
                here = jax.tree.unflatten(treedef, [next(own if moves else rest) for moves in moving])
                return unless_each(right, fast, slow, *here)

            return jax.lax.map(one, (right, fast, own))

        own = [leaf for leaf, moves in zip(leaves, moving, strict=True) if moves]
        value = unless_each(jnp.all(right), fast, every, right, fast, own, shared)
        return value, jax.tree.map(lambda _: True, value)

    return choose(right, fast, args)


def together(f: Callable[[PyTree, PyTree], PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """f(a, b) for arrays with any leading axes, such that vmap adds one: one loop for a whole batch."""

    @custom_vmap
    def run(a, b):
        return f(a, b)

    @run.def_vmap
    def batch(size, batched, *args):
        def spread(value, is_batched):
            return value if is_batched else jnp.broadcast_to(value, (size, *jnp.shape(value)))

        value = run(*jax.tree.map(spread, args, tuple(batched)))
        return value, jax.tree.map(lambda _: True, value)

    return run


@custom_vmap
def everywhere(flag: jax.Array) -> jax.Array:
    """A bool scalar; under vmap, whether it holds of all: one bool for the whole batch."""
    return flag


@everywhere.def_vmap
def _everywhere(size, batched, flag):
    del size, batched
    return everywhere(jnp.all(flag)), False
