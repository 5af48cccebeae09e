"""Paths through K states: hidden Markov models and linear-chain conditional random fields."""

from .path import Path
from .posterior import Chain, chain

__all__ = ["Chain", "Path", "chain"]
