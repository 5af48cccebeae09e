"""What `fit` found out about what went wrong, and how it says so."""

from dataclasses import dataclass

from ._bar import trouble_of
from ._rule import Info

FEW = 5
"""How many data are named."""

Place = int | tuple[int, int]
"""A datum: its number in ys, or its batch and row in a stream."""


@dataclass(frozen=True)
class Trouble:
    """What `fit` found out about updates that were rejected and data that were left out.

    Attributes:
      step: the first update that was rejected, counted as in `Result.history`; None if none was.
      leaves: the parts of the parameters that were not finite in it, by the dotted names that `restrict` takes; ()
        where the rule does not tell (one of your own).
      what: "gradient", "statistics", "optimizer" (the gradient is finite, its step is not) or "m step", where they came
        from.
      data: the first few data whose gradient or statistics are not finite, although their L is; () where it is no
        datum's fault. Each is its number in ys; on a stream (batch, row).
      dropped: the first few data that the parameters returned leave out, likewise; of a stream, those before the last
        pass.
    """

    step: int | None = None
    leaves: tuple[str, ...] = ()
    what: str = ""
    data: tuple[Place, ...] = ()
    dropped: tuple[Place, ...] = ()

    def rejection(self) -> str:
        """The rejected step in words."""
        told = f"update {self.step} is the first that was rejected"
        if self.leaves:
            more = f" and {len(self.leaves) - 3} more" if len(self.leaves) > 3 else ""
            told += f": not finite in {', '.join(self.leaves[:3])}{more} ({_SOURCES[self.what]})"
        return told + (f", because of {named(self.data)}" if self.data else "")


_SOURCES = {
    "gradient": "the gradient",
    "statistics": "the expected statistics",
    "optimizer": "the optimiser's step; the gradient is finite",
    "m step": "the closed-form M step; the statistics are finite",
}


def named(data: tuple[Place, ...]) -> str:
    """Data in words."""
    if data and isinstance(data[0], tuple):
        return ", ".join(f"batch {batch} row {row}" for batch, row in data)  # type: ignore[misc]
    return f"{'datum' if len(data) == 1 else 'data'} {', '.join(map(str, data))}"


def said(info: Info | None, trouble: Trouble | None, begin: str) -> str:
    """What a warning says of a report and of what was found; nothing where all is well."""
    counts = [] if info is None else trouble_of(info)
    if counts and trouble is not None and trouble.dropped:
        counts[0] += f" ({named(trouble.dropped)}{', ...' if info and info.dropped > len(trouble.dropped) else ''})"
    told = [begin + ", ".join(counts)] if counts else []
    if trouble is not None and trouble.step is not None:
        told.append(trouble.rejection())
    return "; ".join(told)
