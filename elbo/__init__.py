"""The objective shared by EM, CTC and the VAE, as a transform of a pair of pure functions (log_joint, encoder)."""

from . import linalg
from .check import check_model
from .estimators import Automatic, Enumerated, Estimator, Exact, Reparameterized
from .exact import exact
from .family import Family, density, is_family, tapped
from .model import Model, Params
from .numerics import (
    IMPOSSIBLE,
    LOG_ZERO,
    PRECISION,
    all_finite,
    is_feasible,
    on_support,
    require_number,
    safe_log,
    softplus,
    widen,
)
from .objective import Decomposition, decompose, elbo, evidence, kl
from .platform import warn_if_unsound
from .posteriors import (
    Alignment,
    Bernoulli,
    Categorical,
    Chain,
    GaussianChain,
    MultivariateNormal,
    Nested,
    Normal,
    Parse,
    Path,
    Posterior,
    Spans,
    Structure,
    StructureError,
    Tree,
    alignment,
    bernoulli,
    categorical,
    chain,
    gaussian,
    gaussian_chain,
    tree,
)
from .relaxed import Relaxed
from .remember import remembered
from .score_function import ScoreFunction
from .sequence import Labelled, Padded, padded, zero_unless

__all__ = [
    "IMPOSSIBLE",
    "LOG_ZERO",
    "PRECISION",
    "Alignment",
    "Automatic",
    "Bernoulli",
    "Categorical",
    "Chain",
    "Decomposition",
    "Enumerated",
    "Estimator",
    "Exact",
    "Family",
    "GaussianChain",
    "Labelled",
    "Model",
    "MultivariateNormal",
    "Nested",
    "Normal",
    "Padded",
    "Params",
    "Parse",
    "Path",
    "Posterior",
    "Relaxed",
    "Reparameterized",
    "ScoreFunction",
    "Spans",
    "Structure",
    "StructureError",
    "Tree",
    "alignment",
    "bernoulli",
    "categorical",
    "chain",
    "check_model",
    "decompose",
    "density",
    "elbo",
    "evidence",
    "exact",
    "gaussian",
    "gaussian_chain",
    "is_family",
    "is_feasible",
    "kl",
    "linalg",
    "on_support",
    "padded",
    "remembered",
    "require_number",
    "safe_log",
    "softplus",
    "all_finite",
    "tapped",
    "tree",
    "widen",
    "zero_unless",
]

warn_if_unsound()
