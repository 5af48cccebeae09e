"""ln Z and the marginals of an alignment: their derivative rules, and one loop for a whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from . import alignment_log, alignment_scaled
from .alignment_path import Sizes, States

Tree = Any


def _together(f: Callable[[States, Sizes], Tree]) -> Callable[[States, Sizes], Tree]:
    """f for arrays with any leading axes, such that vmap adds one."""

    @custom_vmap
    def run(potentials, sizes):
        return f(potentials, sizes)

    @run.def_vmap
    def batch(size, batched, *args):
        def spread(value, is_batched):
            return value if is_batched else jnp.broadcast_to(value, (size, *jnp.shape(value)))

        value = run(*jax.tree.map(spread, args, tuple(batched)))
        return value, jax.tree.map(lambda _: True, value)

    return run


_log_partition, _smooth = _together(alignment_scaled.log_partition), _together(alignment_scaled.smooth)


@jax.custom_jvp
@jax.jit
def log_partition(potentials: States, sizes: Sizes) -> jax.Array:
    """ln Z of clean potentials, nats; its derivative is the marginals. Without differentiation a forward pass."""
    return _log_partition(potentials, sizes)


@log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    log_z, marginals = smooth(*primals)
    return log_z, inner(marginals, tangents[0])


@jax.custom_jvp
@jax.jit
def smooth(potentials: States, sizes: Sizes) -> tuple[jax.Array, States]:
    """ln Z and the marginals [T, L+1] and [T, L] of clean potentials."""
    return _smooth(potentials, sizes)


@smooth.defjvp
def _smooth_jvp(primals, tangents):
    # log space has no rules of its own, so that all higher derivatives are those of plain arithmetic; where only ln Z
    # is differentiated, nothing asks for it
    potentials, sizes = primals
    log_z, marginals = smooth(potentials, sizes)
    _, slopes = jax.jvp(lambda p: alignment_log.smooth(p, sizes)[1], (potentials,), (tangents[0],))
    return (log_z, marginals), (inner(marginals, tangents[0]), slopes)


def inner(a: States, b: States) -> jax.Array:
    """⟨a, b⟩, a scalar, linear in both."""
    return jnp.sum(a.blanks * b.blanks) + jnp.sum(a.labels * b.labels)
