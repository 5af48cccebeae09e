"""The objective shared by EM, CTC and the VAE, as a transform of a pair of pure functions (log_joint, encoder).

Update rules are in `elbo.optim`, models and families in `elbo.models`. `elbo.posteriors` has the posteriors of
structured latents, `elbo.extend` what rules, families and models of your own are built from, `elbo.numerics` and
`elbo.linalg` the arithmetic that is safe at ln 0 and under vmap.
"""

from . import extend, linalg, numerics, posteriors
from ._check import check_model
from ._encoder import exact
from ._estimators import Automatic, ClosedForm, Enumerated, Estimator, Reparameterized
from ._family import Family
from ._files import load, save
from ._model import Model, Params
from ._objective import Decomposition, decompose, elbo, evidence, kl
from ._platform import warn_if_unsound
from ._relaxed import Relaxed
from ._score_function import ScoreFunction
from ._sequence import Labelled, Padded, as_padded, stack
from .numerics import LOG_ZERO, PRECISION, safe_log
from .posteriors import (
    BernoulliPosterior,
    CategoricalPosterior,
    MultivariateNormalPosterior,
    Nested,
    NormalPosterior,
    Posterior,
    StructureError,
)
from .posteriors.alignment import alignment
from .posteriors.bernoulli import bernoulli
from .posteriors.categorical import categorical
from .posteriors.chain import chain
from .posteriors.gaussian_chain import gaussian_chain
from .posteriors.multivariate_normal import gaussian
from .posteriors.semi_markov import semi_markov
from .posteriors.tree import tree

__all__ = [
    "LOG_ZERO",
    "PRECISION",
    "Automatic",
    "BernoulliPosterior",
    "CategoricalPosterior",
    "ClosedForm",
    "Decomposition",
    "Enumerated",
    "Estimator",
    "Family",
    "Labelled",
    "Model",
    "MultivariateNormalPosterior",
    "Nested",
    "NormalPosterior",
    "Padded",
    "Params",
    "Posterior",
    "Relaxed",
    "Reparameterized",
    "ScoreFunction",
    "StructureError",
    "alignment",
    "as_padded",
    "bernoulli",
    "categorical",
    "chain",
    "check_model",
    "decompose",
    "elbo",
    "evidence",
    "exact",
    "extend",
    "gaussian",
    "gaussian_chain",
    "kl",
    "linalg",
    "load",
    "numerics",
    "posteriors",
    "safe_log",
    "save",
    "semi_markov",
    "stack",
    "tree",
]

warn_if_unsound()
