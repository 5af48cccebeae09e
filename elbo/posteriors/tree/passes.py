"""ln Z and the marginals of a tree: which pass computes them."""

import jax

from ..structured.batching import fallback_each
from ..structured.rules import differentiable
from . import inside_outside, log_space
from .parse import Parse, shift


def _log_partition(potentials: Parse, length: jax.Array) -> jax.Array:
    """ln Z by an inside pass."""
    value, right = inside_outside.log_partition(shift(potentials, length), length)
    return fallback_each(right, value, _twice_sure, potentials, length)


def _twice_sure(potentials: Parse, length: jax.Array) -> jax.Array:
    """ln Z where the inside pass alone knows too little: the outside weights know more."""
    (value, _, _), right = inside_outside.smooth(shift(potentials, length), length)
    slow = lambda p, n: log_space.log_partition(p, log_space.no_spans(p), n)
    return fallback_each(right, value, slow, potentials, length)


def _smooth(potentials: Parse, length: jax.Array) -> tuple[jax.Array, Parse, jax.Array]:
    """ln Z, the marginals, and those of the spans, [T, T+1, N] by start and width: inside and outside."""
    (log_z, marginals, spans), right = inside_outside.smooth(shift(potentials, length), length)
    fast = log_z, marginals._replace(root=marginals.root[: potentials.root.size]), spans
    return fallback_each(right, fast, log_space.smooth, potentials, length)


log_partition, smooth = differentiable(_log_partition, _smooth, log_space.smooth)
