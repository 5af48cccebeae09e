"""ln Z and the marginals of an alignment, of clean potentials: one loop for a whole batch."""

from ..structured.batching import together
from ..structured.rules import differentiable
from . import log_space, scaled

log_partition, smooth = differentiable(together(scaled.log_partition), together(scaled.smooth), log_space.smooth)
