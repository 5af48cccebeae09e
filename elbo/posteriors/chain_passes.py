"""ln Z and the marginals of a chain: which pass computes them, and their derivative rules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from . import chain_log, chain_scaled, chain_steps
from .chain_path import Path, clean, inner

Tree = Any


@jax.custom_jvp
@jax.jit
def log_partition(potentials: Path, length: jax.Array) -> jax.Array:
    """ln Z, a scalar, nats; its derivative is the marginals. Without differentiation a forward pass."""
    return jax.lax.platform_dependent(
        potentials, length, cpu=_log_partition, default=lambda p, n: chain_log.parallel(clean(p, n), n)[0]
    )


@log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    potentials, length = primals
    log_z, marginals = smooth(potentials, length)
    # no tangent from the padding or a hard zero, be it NaN
    _, tangent = jax.jvp(lambda p: clean(p, length), (potentials,), (tangents[0],))
    return log_z, inner(tangent, marginals)


@jax.custom_jvp
@jax.jit
def smooth(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    """ln Z and the marginals: forwards and backwards in time on a CPU, in parallel elsewhere."""
    return jax.lax.platform_dependent(
        potentials, length, cpu=_smooth, default=lambda p, n: chain_log.parallel(clean(p, n), n)
    )


@smooth.defjvp
def _smooth_jvp(primals, tangents):
    # the slow pass has no rules of its own, so that all higher derivatives are those of plain arithmetic
    potentials, length = primals
    return jax.jvp(lambda p: _slow(p, length), (potentials,), (tangents[0],))


def _log_partition(potentials: Path, length: jax.Array) -> jax.Array:
    if len(potentials.states) == 1:
        return _slow(potentials, length)[0]
    log_z, right = scaled(potentials).log_partition(potentials, length)
    return unless(right, log_z, lambda p, n: _smooth(p, n)[0], potentials, length)


def _smooth(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    if len(potentials.states) == 1:
        return _slow(potentials, length)
    fast, right = scaled(potentials).smooth(potentials, length)
    return unless(right, fast, _slow, potentials, length)


def scaled(potentials: Path) -> Any:
    """The passes in the probability domain."""
    return chain_scaled if potentials.homogeneous else chain_steps


def _slow(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    return chain_log.smooth(clean(potentials, length), length)


def unless(right: jax.Array, fast: Tree, slow: Callable[..., Tree], *args: Tree) -> Tree:
    """fast if all that was computed is right, else slow(*args).

    Under vmap one branch serves the whole batch: a jax.lax.cond on its own would run both branches of it, always.
    """

    @custom_vmap
    def choose(right, fast, args):
        # a loop of at most one turn, for a jax.lax.cond would copy what is fast; and what the body reads has to depend
        # on the loop, lest the compiler computes it beforehand
        def turn(state):
            right, _ = state
            _, here = jax.lax.optimization_barrier((right, args))
            return ~right, slow(*here)

        return jax.lax.while_loop(lambda state: ~state[0], turn, (jnp.all(right), fast))[1]

    @choose.def_vmap
    def batch(size, batched, right, fast, args):
        def spread(value, is_batched):
            return value if is_batched else jnp.broadcast_to(value, (size, *jnp.shape(value)))

        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched[2])
        every = jax.vmap(slow, axes, axis_size=size)
        value = unless(right, jax.tree.map(spread, fast, batched[1]), every, *args)
        return value, jax.tree.map(lambda _: True, value)

    return choose(right, fast, args)
