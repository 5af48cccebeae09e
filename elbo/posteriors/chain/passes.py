"""ln Z and the marginals of a chain: which pass computes them."""

from typing import Any

import jax

from ..._platform import by_platform
from ..structured.batching import fallback_together
from ..structured.rules import differentiable
from . import homogeneous, log_space, per_step
from .path import Path, clean


def _log_partition(potentials: Path, length: jax.Array) -> jax.Array:
    """ln Z: forwards in time on a CPU, in parallel elsewhere."""
    return by_platform(potentials, length, cpu=_forwards, default=lambda p, n: log_space.parallel(clean(p, n), n)[0])


def _smooth(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    """ln Z and the marginals: forwards and backwards in time on a CPU, in parallel elsewhere."""
    return by_platform(potentials, length, cpu=_both_ways, default=lambda p, n: log_space.parallel(clean(p, n), n))


def _forwards(potentials: Path, length: jax.Array) -> jax.Array:
    if len(potentials.states) == 1:
        return _slow(potentials, length)[0]
    log_z, right = in_probabilities(potentials).log_partition(potentials, length)
    return fallback_together(right, log_z, lambda p, n: _both_ways(p, n)[0], potentials, length)


def _both_ways(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    if len(potentials.states) == 1:
        return _slow(potentials, length)
    fast, right = in_probabilities(potentials).smooth(potentials, length)
    return fallback_together(right, fast, _slow, potentials, length)


def in_probabilities(potentials: Path) -> Any:
    """The passes in the probability domain."""
    return homogeneous if potentials.homogeneous else per_step


def _slow(potentials: Path, length: jax.Array) -> tuple[jax.Array, Path]:
    return log_space.smooth(clean(potentials, length), length)


# a tangent from the padding or a hard zero may be NaN: it is left out
log_partition, smooth = differentiable(_log_partition, _smooth, _slow, clean)
