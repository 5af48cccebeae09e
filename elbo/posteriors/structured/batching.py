"""Branches and loops under vmap: what is slow and always right only where what is fast is not, one loop for a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ..._types import PyTree


def fallback_together(right: jax.Array, fast: PyTree, slow: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """fast if all that was computed is right, else slow(*args).

    Under vmap one branch serves the whole batch: a jax.lax.cond on its own would run both branches of it, always.
    """
    return mend_together(right, fast, lambda _, *args: slow(*args), *args)


def mend_together(right: jax.Array, value: PyTree, mend: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """value if all that was computed is right, else mend(value, *args); see `fallback_together`."""

    @custom_vmap
    def run(right, value, args):
        # a loop of at most one turn, for a jax.lax.cond would copy what is fast; and what the body reads has to depend
        # on the loop, lest the compiler computes it beforehand
        def turn(state):
            right, value = state
            _, here = jax.lax.optimization_barrier((right, args))
            return ~right, mend(value, *here)

        return jax.lax.while_loop(lambda state: ~state[0], turn, (jnp.all(right), value))[1]

    @run.def_vmap
    def batch(size, batched, right, value, args):
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched[2])
        every = jax.vmap(mend, (0, *axes), axis_size=size)
        value = mend_together(right, _broadcast(size, value, batched[1]), every, *args)
        return value, jax.tree.map(lambda _: True, value)

    return run(right, value, args)


def fallback_each(right: jax.Array, fast: PyTree, slow: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """fast if all that was computed is right, else slow(*args), under vmap only for those where it is not.

    A jax.lax.cond on its own would run both branches under vmap. Data are taken one after the other: in log space
    even one of them needs much memory.
    """

    @custom_vmap
    def run(right, fast, args):
        return jax.lax.cond(right, lambda: fast, lambda: slow(*args))

    @run.def_vmap
    def batch(size, batched, right, fast, args):
        right, fast = _broadcast(size, (right, fast), tuple(batched[:2]))
        leaves, treedef = jax.tree.flatten(args)
        moving = jax.tree.leaves(batched[2])
        shared = [leaf for leaf, moves in zip(leaves, moving, strict=True) if not moves]

        def every(right, fast, own, shared):
            def one(each):
                right, fast, own = each
                own, rest = iter(own), iter(shared)
                here = jax.tree.unflatten(treedef, [next(own if moves else rest) for moves in moving])
                return fallback_each(right, fast, slow, *here)

            return jax.lax.map(one, (right, fast, own))

        own = [leaf for leaf, moves in zip(leaves, moving, strict=True) if moves]
        value = fallback_each(jnp.all(right), fast, every, right, fast, own, shared)
        return value, jax.tree.map(lambda _: True, value)

    return run(right, fast, args)


def one_loop(f: Callable[[PyTree, PyTree], PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """f(a, b) for arrays with any leading axes, such that vmap adds one: one loop for a whole batch."""

    @custom_vmap
    def run(a, b):
        return f(a, b)

    @run.def_vmap
    def batch(size, batched, *args):
        value = run(*_broadcast(size, args, tuple(batched)))
        return value, jax.tree.map(lambda _: True, value)

    return run


@custom_vmap
def all_of_batch(flag: jax.Array) -> jax.Array:
    """A bool scalar; under vmap, whether it holds of all: one bool for the whole batch."""
    return flag


@all_of_batch.def_vmap
def _all_of_batch(size, batched, flag):
    del size, batched
    return all_of_batch(jnp.all(flag)), False


def by_batch_size(few: Callable[..., PyTree], many: Callable[..., PyTree], most: int) -> Callable[..., PyTree]:
    """few, but under vmap over more than `most` data `many`."""

    @custom_vmap
    def run(*args):
        return few(*args)

    @run.def_vmap
    def batch(size, is_batched, *args):
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(is_batched))
        value = jax.vmap(few if size <= most else many, axes, axis_size=size)(*args)
        return value, jax.tree.map(lambda _: True, value)

    return run


def _broadcast(size: int, tree: PyTree, is_batched: PyTree) -> PyTree:
    """A leading axis for what has none."""
    return jax.tree.map(lambda a, b: a if b else jnp.broadcast_to(a, (size, *jnp.shape(a))), tree, is_batched)
