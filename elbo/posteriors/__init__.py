"""One file per structure of the latent: its posterior, and the value that names the structure to `exact`."""

from .alignment import Alignment, alignment
from .bernoulli import Bernoulli, bernoulli
from .categorical import Categorical, categorical
from .chain import Chain, chain
from .chain_path import Path
from .derive import StructureError
from .gaussian_chain import GaussianChain, gaussian_chain
from .multivariate_normal import MultivariateNormal, gaussian
from .nested import Nested
from .normal import Normal
from .protocol import Posterior, Structure, prepared
from .tree import Tree, tree
from .tree_parse import Parse, Spans

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
    "tree",
]
