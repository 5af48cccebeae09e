"""What we compare with: one file per library, each with the same small interface.

An adapter has `MODULE`, what is imported; `INSTALL`, how to get it; and `TASKS`, a function of the data for each task
that the library can do, which returns its contenders. Nothing is imported before it is asked for.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

ADAPTERS = {
    "autodiff": "autodiff",
    "dynamax": "dynamax",
    "flax+optax": "flax_optax",
    "hmmlearn": "hmmlearn",
    "numpyro": "numpyro",
    "optax": "optax",
    "pomegranate": "pomegranate",
    "scikit-learn": "scikit_learn",
    "torch": "torch",
    "torch-struct": "torch_struct",
}
"""Library to adapter file."""


@dataclass(frozen=True)
class Contender:
    """One program, ready to be checked and timed on one problem; making it has compiled it.

    Attributes:
      library: who wrote it, "elbo" for us.
      variant: what distinguishes it from the library's other contenders, such as "float64".
      answer: what the correctness gate compares with the reference: names to arrays or tuples of arrays.
      run: `run(count)` does that many units of work, one after the other, and waits for the last.
      compiled: a `measure.Compiled`, or None if nothing is compiled.
      share: the part of the problem's unit that one unit of `run` does; its times are divided by it.
      close: gives back what it holds, such as processes.
    """

    library: str
    variant: str
    answer: Callable[[], dict[str, Any]]
    run: Callable[[int], None]
    compiled: Any = None
    share: float = 1.0
    close: Callable[[], None] = lambda: None

    @property
    def label(self) -> str:
        """Library and variant."""
        return f"{self.library}, {self.variant}" if self.variant else self.library


def adapter(library: str) -> ModuleType:
    """The adapter of a library, which need not be installed."""
    if library not in ADAPTERS:
        raise ValueError(f"peers: no adapter for {library!r}; there are {', '.join(ADAPTERS)}")
    return importlib.import_module(f".{ADAPTERS[library]}", __package__)


def missing(library: str) -> str | None:
    """None if the library is installed, else a line that says how to get it."""
    found = adapter(library)
    if importlib.util.find_spec(found.MODULE) is not None:
        return None
    return f"{library}: not installed, skipped; to compare with it: {found.INSTALL}"
