"""ln Z and the marginals of an alignment, of clean potentials: one loop for a whole batch."""

import jax

from ..._platform import by_platform
from ..structured.batching import one_loop
from ..structured.rules import differentiable
from . import log_space, mantissas
from .path import Sizes, States


def _log_partition(potentials: States, sizes: Sizes) -> jax.Array:
    plain = mantissas.log_partition
    return by_platform(potentials, sizes, cpu=plain, default=lambda p, s: plain(mantissas.whole_blocks(p), s))


def _smooth(potentials: States, sizes: Sizes) -> tuple[jax.Array, States]:
    return by_platform(potentials, sizes, cpu=mantissas.smooth, default=smooth_in_whole_blocks)


def smooth_in_whole_blocks(potentials: States, sizes: Sizes) -> tuple[jax.Array, States]:
    """Loops whose length is known before they begin: an accelerator need not ask the host after every turn."""
    log_z, marginals = mantissas.smooth(mantissas.whole_blocks(potentials), sizes)
    frames = potentials.labels.shape[-2]
    return log_z, States(*(a[..., :frames, :] for a in marginals))


log_partition, smooth = differentiable(one_loop(_log_partition), one_loop(_smooth), log_space.smooth)
