"""Paths through K states: hidden Markov models and linear-chain conditional random fields."""

from .path import Path
from .posterior import ChainPosterior, chain

__all__ = ["ChainPosterior", "Path", "chain"]
