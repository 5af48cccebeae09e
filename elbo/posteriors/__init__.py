"""One file per structure of the latent: its posterior, and the value that names the structure to `exact`."""

from .bernoulli import Bernoulli, bernoulli
from .categorical import Categorical, categorical
from .derive import StructureError
from .multivariate_normal import MultivariateNormal, gaussian
from .normal import Normal
from .protocol import Posterior, Structure

__all__ = [
    "Bernoulli",
    "Categorical",
    "MultivariateNormal",
    "Normal",
    "Posterior",
    "Structure",
    "StructureError",
    "bernoulli",
    "categorical",
    "gaussian",
]
