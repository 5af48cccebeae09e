"""Update rules: coordinate ascent on one objective, exact or by gradient in each coordinate, and what runs them."""

from .compose import chain, minibatches, repeat, restrict
from .damp import damp
from .eg import eg_step
from .em import em_step
from .fit import Fit, fit
from .rule import Info, Rule, Update
from .run import Reason, Run, best, run
from .statistics import Statistics, expected_statistics, maximize
from .vae import vae_step
from .vem import vem_step

__all__ = [
    "Fit",
    "Info",
    "Reason",
    "Rule",
    "Run",
    "Statistics",
    "Update",
    "best",
    "chain",
    "damp",
    "eg_step",
    "em_step",
    "expected_statistics",
    "fit",
    "maximize",
    "minibatches",
    "repeat",
    "restrict",
    "run",
    "vae_step",
    "vem_step",
]
