"""Update rules: coordinate ascent on one objective, exact or by gradient in each coordinate, and what runs them."""

from ._accelerate import accelerate
from ._checkpoints import Checkpoints
from ._compose import chain, minibatches, repeat, restrict
from ._damp import damp
from ._e_step import Statistics, expected_statistics
from ._eg import eg_step
from ._em import em_step
from ._fit import fit
from ._incremental import incremental_em_step
from ._information import Uncertainty, information
from ._m_step import maximize
from ._rate import Convergence, rate
from ._rule import Info, Rule, Update
from ._run import Reason, Result, best, run
from ._select import Candidate, Selection, select
from ._source import Batch, Batches, StreamError, sample
from ._summary import summary
from ._trouble import Trouble
from ._vae import vae_step
from ._vem import vem_step

__all__ = [
    "Batch",
    "Batches",
    "Candidate",
    "Checkpoints",
    "Convergence",
    "Info",
    "Reason",
    "Result",
    "Rule",
    "Selection",
    "Statistics",
    "StreamError",
    "Trouble",
    "Uncertainty",
    "Update",
    "accelerate",
    "best",
    "chain",
    "damp",
    "eg_step",
    "em_step",
    "expected_statistics",
    "fit",
    "incremental_em_step",
    "information",
    "maximize",
    "minibatches",
    "rate",
    "repeat",
    "restrict",
    "run",
    "sample",
    "select",
    "summary",
    "vae_step",
    "vem_step",
]
