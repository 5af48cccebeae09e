"""ln Z and the marginals of a chain: which pass computes them, and their derivative rules."""

from typing import Any

import jax

from . import chain_log, chain_scaled, chain_steps
from .chain_path import Path, clean, inner
from .chain_unless import unless


@jax.custom_jvp
@jax.jit
def log_partition(potentials: Path, length: jax.Array) -> jax.Array:
    """ln Z, a scalar, nats; its derivative is the marginals. Without differentiation a forward pass."""
    return jax.lax.platform_dependent(
        potentials, length, cpu=_log_partition, default=lambda p, n: chain_log.parallel(clean(p, n), n)[0]
    )


@log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    log_z, marginals = smooth(*primals)
    return log_z, _slope(marginals, primals, tangents)


@jax.custom_jvp
@jax.jit
def smooth(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    """ln Z and the marginals: forwards and backwards in time on a CPU, in parallel elsewhere."""
    return jax.lax.platform_dependent(
        potentials, length, cpu=_smooth, default=lambda p, n: chain_log.parallel(clean(p, n), n)
    )


@smooth.defjvp
def _smooth_jvp(primals, tangents):
    # the slow pass has no rules of its own, so that all higher derivatives are those of plain arithmetic; where only
    # ln Z is differentiated, nothing asks for it
    potentials, length = primals
    log_z, marginals = smooth(potentials, length)
    _, slopes = jax.jvp(lambda p: _slow(p, length)[1], (potentials,), (tangents[0],))
    return (log_z, marginals), (_slope(marginals, primals, tangents), slopes)


def _slope(marginals: Path, primals: tuple, tangents: tuple) -> jax.Array:
    """The derivative of ln Z."""
    potentials, length = primals
    # no tangent from the padding or a hard zero, be it NaN
    _, tangent = jax.jvp(lambda p: clean(p, length), (potentials,), (tangents[0],))
    return inner(tangent, marginals)


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
