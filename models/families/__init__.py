"""Exponential families: blocks of Θ whose M step is closed form."""

from ._bernoulli import Bernoulli
from ._categorical import Categorical
from ._linear_gaussian import LinearGaussian
from ._multivariate_normal import MultivariateNormal
from ._normal import Normal
from ._poisson import Poisson
from ._prior import PseudoData, PseudoScale

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
