"""Alignments of frames with labels: connectionist temporal classification."""

from .posterior import AlignmentPosterior, alignment

__all__ = ["AlignmentPosterior", "alignment"]
