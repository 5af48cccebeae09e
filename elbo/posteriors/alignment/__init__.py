"""Alignments of frames with labels: connectionist temporal classification."""

from .posterior import Alignment, alignment

__all__ = ["Alignment", "alignment"]
