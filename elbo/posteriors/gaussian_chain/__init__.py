"""Sequences of real vectors under a quadratic log joint: linear-Gaussian state spaces."""

from .posterior import GaussianChainPosterior, gaussian_chain

__all__ = ["GaussianChainPosterior", "gaussian_chain"]
