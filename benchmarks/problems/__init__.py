"""The problems: one record each. A new one is a new record, and where needed a new function in the peers' adapters."""

from .chains import CHAINS, Field, Sequences
from .ctc import TRANSCRIPTS, Transcripts
from .many import MANY, Choice, Lengths, Sizes
from .mixtures import MIXTURES, Mixture
from .pcfg import PARSES, Forest
from .problem import Problem, Target
from .vae import VAES, Vae, make_vae

PROBLEMS = (*MIXTURES, *VAES, *CHAINS, *PARSES, *TRANSCRIPTS, *MANY)

__all__ = [
    "PROBLEMS",
    "Choice",
    "Field",
    "Forest",
    "Lengths",
    "Mixture",
    "Problem",
    "Sequences",
    "Sizes",
    "Target",
    "Transcripts",
    "Vae",
    "make_vae",
]
