"""Sequences of real vectors under a quadratic log joint: linear-Gaussian state spaces."""

from .posterior import GaussianChain, gaussian_chain

__all__ = ["GaussianChain", "gaussian_chain"]
