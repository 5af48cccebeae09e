"""One file or folder a structure of the latent: its posterior, and the value that names the structure to `exact`."""

from .alignment import Alignment, alignment
from .bernoulli import Bernoulli, bernoulli
from .categorical import Categorical, categorical
from .chain import Chain, Path, chain
from .derive import StructureError
from .gaussian_chain import GaussianChain, gaussian_chain
from .multivariate_normal import MultivariateNormal, gaussian
from .nested import Nested
from .normal import Normal
from .protocol import Posterior, Structure, prepared
from .semi_markov import Segmentation, Segments, SemiMarkov, semi_markov
from .tree import Parse, Spans, Tree, tree

__all__ = [
    "Alignment",
    "Bernoulli",
    "Categorical",
    "Chain",
    "GaussianChain",
    "MultivariateNormal",
    "Nested",
    "Normal",
    "Parse",
    "Path",
    "Posterior",
    "Segmentation",
    "Segments",
    "SemiMarkov",
    "Spans",
    "Structure",
    "StructureError",
    "Tree",
    "alignment",
    "bernoulli",
    "categorical",
    "chain",
    "gaussian",
    "gaussian_chain",
    "prepared",
    "semi_markov",
    "tree",
]
