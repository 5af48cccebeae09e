"""ln Z and the marginals of a tree: which pass computes them, and their derivative rules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from . import tree_log, tree_outside, tree_scaled
from .tree_parse import Parse, inner, shift

Tree = Any


@jax.custom_jvp
@jax.jit
def log_partition(potentials: Parse, length: jax.Array) -> jax.Array:
    """ln Z, a scalar, nats; its derivative is the marginals. Without differentiation an inside pass."""
    value, right = tree_scaled.log_partition(shift(potentials, length), length)
    return unless(right, value, _twice_sure, potentials, length)


@log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    log_z, marginals, _ = smooth(*primals)
    return log_z, inner(marginals, tangents[0])


@jax.custom_jvp
@jax.jit
def smooth(potentials: Parse, length: jax.Array) -> tuple[jax.Array, Parse, jax.Array]:
    """ln Z, the marginals, and those of the spans, [T, T+1, N] by start and width: inside and outside."""
    return _smooth(potentials, length)


@smooth.defjvp
def _smooth_jvp(primals, tangents):
    # the slow pass has no rules of its own, so that all higher derivatives are those of plain arithmetic; where only
    # ln Z is differentiated, nothing asks for it
    potentials, length = primals
    log_z, marginals, spans = smooth(potentials, length)
    _, slopes = jax.jvp(lambda p: tree_log.smooth(p, length)[1:], (potentials,), (tangents[0],))
    return (log_z, marginals, spans), (inner(marginals, tangents[0]), *slopes)


def _twice_sure(potentials: Parse, length: jax.Array) -> jax.Array:
    """ln Z where the inside pass alone knows too little: the outside weights know more."""
    (value, _, _), right = tree_outside.smooth(shift(potentials, length), length)
    return unless(right, value, lambda p, n: tree_log.log_partition(p, tree_log.no_spans(p), n), potentials, length)


def _smooth(potentials: Parse, length: jax.Array) -> tuple[jax.Array, Parse, jax.Array]:
    (log_z, marginals, spans), right = tree_outside.smooth(shift(potentials, length), length)
    fast = log_z, marginals._replace(root=marginals.root[: potentials.root.size]), spans
    return unless(right, fast, tree_log.smooth, potentials, length)


def unless(right: jax.Array, fast: Tree, slow: Callable[..., Tree], *args: Tree) -> Tree:
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
                return unless(right, fast, slow, *here)

            return jax.lax.map(one, (right, fast, own))

        own = [leaf for leaf, moves in zip(leaves, moving, strict=True) if moves]
        value = unless(jnp.all(right), fast, every, right, fast, own, shared)
        return value, jax.tree.map(lambda _: True, value)

    return choose(right, fast, args)
