"""Segmentations: hidden semi-Markov models, whose states last, and segmental conditional random fields."""

from .posterior import SemiMarkov, semi_markov
from .segments import Segmentation, Segments

__all__ = ["Segmentation", "Segments", "SemiMarkov", "semi_markov"]
