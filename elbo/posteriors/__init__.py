"""Posteriors: one file or folder a structure of the latent, with the value that names the structure to `exact`.

A posterior is named for its structure: `ChainPosterior` is what `elbo.chain(K)` gives. What the `__init__` of a folder
exports is public.
"""

from .alignment import AlignmentPosterior
from .bernoulli import BernoulliPosterior
from .categorical import CategoricalPosterior
from .chain import ChainPosterior, Path
from .derive import StructureError
from .gaussian_chain import GaussianChainPosterior
from .multivariate_normal import MultivariateNormalPosterior
from .nested import Nested
from .normal import NormalPosterior
from .protocol import Posterior, Structure, prepared
from .semi_markov import Segmentation, Segments, SemiMarkovPosterior
from .tree import Parse, Spans, TreePosterior

__all__ = [
    "AlignmentPosterior",
    "BernoulliPosterior",
    "CategoricalPosterior",
    "ChainPosterior",
    "GaussianChainPosterior",
    "MultivariateNormalPosterior",
    "Nested",
    "NormalPosterior",
    "Parse",
    "Path",
    "Posterior",
    "Segmentation",
    "Segments",
    "SemiMarkovPosterior",
    "Spans",
    "Structure",
    "StructureError",
    "TreePosterior",
    "prepared",
]
