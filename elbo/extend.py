"""What rules, families and models of your own are built from, beside `elbo.numerics`, `linalg` and `posteriors`."""

from . import _files as files
from ._batch import batch_length, explained
from ._chunks import Chunks, ChunkSize, automatic_size, check_chunk_size, over_devices
from ._criteria import aic, bic, free_parameters
from ._devices import anywhere, axes_of, explicit_mesh, placed_by_compiler, varying
from ._draws import draws_the_impossible, may_draw_the_impossible
from ._dtypes import at_least_single, converted, dtype_of, widened
from ._encoder import terms
from ._estimators import expect_with_entropy
from ._family import density, is_family, tapped, with_tap
from ._objective import bound
from ._platform import by_platform
from ._sequence import zero_unless
from ._tap_checks import require_taps
from ._told import told
from ._types import PyTree
from ._values import Compiled, Method, described, value

__all__ = [
    "ChunkSize",
    "Chunks",
    "Compiled",
    "Method",
    "PyTree",
    "aic",
    "at_least_single",
    "automatic_size",
    "anywhere",
    "axes_of",
    "batch_length",
    "bic",
    "bound",
    "by_platform",
    "check_chunk_size",
    "converted",
    "density",
    "described",
    "draws_the_impossible",
    "dtype_of",
    "expect_with_entropy",
    "explained",
    "explicit_mesh",
    "files",
    "free_parameters",
    "is_family",
    "may_draw_the_impossible",
    "over_devices",
    "placed_by_compiler",
    "require_taps",
    "tapped",
    "terms",
    "told",
    "value",
    "varying",
    "widened",
    "with_tap",
    "zero_unless",
]
