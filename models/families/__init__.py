"""Exponential families: blocks of Θ whose M step is closed form."""

from .categorical import Categorical
from .multivariate_normal import MultivariateNormal
from .prior import PseudoData, PseudoScale

__all__ = ["Categorical", "MultivariateNormal", "PseudoData", "PseudoScale"]
