"""Segmentations: hidden semi-Markov models, whose states last, and segmental conditional random fields."""

from .posterior import SemiMarkovPosterior, semi_markov
from .segments import Segmentation, Segments

__all__ = ["Segmentation", "Segments", "SemiMarkovPosterior", "semi_markov"]
