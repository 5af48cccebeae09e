"""The history of a run on the host: a row for each step, which costs the same however long the run is."""

from typing import Any

import numpy as np

from ._rule import Info


class History:
    """`Info` of the steps so far; room is doubled when it is used up.

    >>> history = History()
    >>> history.add(Info(*np.zeros((8, 2))))
    >>> history.add(Info(*np.ones((8, 1))))
    >>> history.rows(1, 3).elbo.tolist(), history.rows(0, 0)
    ([0.0, 1.0], None)
    """

    def __init__(self, before: Info | None = None):
        self.columns: list[np.ndarray] = []
        self.count = 0
        if before is not None:
            self.add(before)

    def add(self, block: Info) -> None:
        """Appends steps, arrays [steps]."""
        parts = [np.asarray(part) for part in block]
        end = self.count + len(parts[0])
        if not self.columns:
            self.columns = [np.empty(0, part.dtype) for part in parts]
        if end > len(self.columns[0]):
            room = max(1024, 2 * end)
            self.columns = [np.concatenate([c, np.empty(room - len(c), c.dtype)]) for c in self.columns]
        for column, part in zip(self.columns, parts, strict=True):
            column[self.count : end] = part
        self.count = end

    def rows(self, begin: int, end: int) -> Info | None:
        """A copy of some steps; None where there are none."""
        part: Any = [column[begin:end].copy() for column in self.columns]
        return Info(*part) if end > begin else None
