"""ln Z and the marginals of an alignment, of clean potentials: one loop for a whole batch."""

from ..structured.batching import one_loop
from ..structured.rules import differentiable
from . import log_space, mantissas

log_partition, smooth = differentiable(one_loop(mantissas.log_partition), one_loop(mantissas.smooth), log_space.smooth)
