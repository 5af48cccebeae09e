"""Exponential families: blocks of Θ whose M step is closed form."""

from .bernoulli import Bernoulli
from .categorical import Categorical
from .linear_gaussian import LinearGaussian
from .multivariate_normal import MultivariateNormal
from .normal import Normal
from .poisson import Poisson
from .prior import PseudoData, PseudoScale

__all__ = [
    "Bernoulli",
    "Categorical",
    "LinearGaussian",
    "MultivariateNormal",
    "Normal",
    "Poisson",
    "PseudoData",
    "PseudoScale",
]
