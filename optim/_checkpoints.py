"""Checkpoints of `fit`: what it needs to go on as if it had never stopped, written by orbax."""

import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from elbo import Params
from elbo.extend import PyTree, files

from ._arguments import require_count
from ._history import History
from ._rule import Info
from ._run import Seen


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often `fit` writes checkpoints. Needs orbax (`pip install "jax-elbo[checkpoint]"`).

    A checkpoint appears when all of it is written. Where one cannot be written (a full disk), `fit` warns and goes on,
    and the older ones stay; one that cannot be read is left out with a warning, and the one before it is taken.

    Args:
      folder: for these alone.
      every: steps between two of them; the last step is always written.
      minutes: at least so many between two of them.
      keep: how many of the latest to keep.
    """

    folder: str | Path
    every: int = 100
    minutes: float = 0.0
    keep: int = 3

    def __post_init__(self):
        require_count("every", self.every)
        require_count("keep", self.keep)


class Kept(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      params, state: after the step.
      seen: what the loop remembers of the steps before.
      reason: why the run ended with this step, or MAX_STEPS.
    """

    params: Params
    state: PyTree
    seen: Seen
    reason: int


class Writer:
    """The checkpoints of one run of `fit`.

    The history is beside them, in a file of rows to which each adds those since the last: to write it anew every time
    would cost the square of the steps. A checkpoint of step n counts on the first n rows.
    """

    def __init__(self, options: Checkpoints, key: jax.Array | None, resume: bool):
        ocp = files.orbax()
        self.options, self.key = options, None if key is None else np.asarray(jax.random.key_data(key)).tolist()
        self.path = Path(options.folder).absolute()
        settings = ocp.CheckpointManagerOptions(max_to_keep=options.keep, enable_async_checkpointing=False)
        self.manager = ocp.CheckpointManager(self.path, options=settings)
        self.args = ocp.args
        self.last, self.time = 0, time.monotonic()
        self.log, self.logged = self.path / "history.rows", 0
        if not resume and self.manager.all_steps():
            raise ValueError(
                f"checkpoints: {self.path} holds some up to step {self.manager.latest_step()}; pass resume=True to go "
                "on from there, or another folder"
            )

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint."""
        waited = time.monotonic() - self.time >= 60 * self.options.minutes
        return step - self.last >= self.options.every and waited

    def write(self, step: int, kept: Kept, history: History) -> None:
        """Writes a checkpoint, unless that of this step is written."""
        if step == self.last:
            return
        try:
            fields = self._append(step, history)
            about = {"version": files.VERSION, "key": self.key, "leaves": files.listed(kept), "history": fields}
            parts = dict(arrays=self.args.StandardSave(files.packed(kept)), about=self.args.JsonSave(about))
            self.manager.save(step, args=self.args.Composite(**parts), force=True)
        except Exception as error:  # whatever it is, the run is worth more
            warnings.warn(
                f"fit: no checkpoint could be written after step {step} in {self.path}: {error}. The run goes on",
                RuntimeWarning,
                stacklevel=2,
            )
        self.last, self.time = step, time.monotonic()

    def _append(self, step: int, history: History) -> list[list[str]]:
        """Writes the rows up to a step that are not written; the names and dtypes of their fields."""
        new: Any = history.rows(self.logged, step)
        fields = [[name, column.dtype.str] for name, column in zip(Info._fields, new, strict=True)]
        rows = np.empty(step - self.logged, [tuple(field) for field in fields])
        for name, column in zip(Info._fields, new, strict=True):
            rows[name] = column
        with self.log.open("r+b" if self.log.exists() else "xb") as file:
            file.seek(self.logged * rows.itemsize)  # what an older run wrote from here on is written over
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.logged = step
        return fields

    def _rows(self, step: int, fields: list[list[str]]) -> Info:
        rows = np.fromfile(self.log, [tuple(field) for field in fields], step)
        if len(rows) < step:
            raise ValueError(f"{self.log} holds {len(rows)} steps")
        self.logged = step
        columns: Any = [rows[name].copy() for name, _ in fields]
        return Info(*columns)

    def read(self, params: Params, state: PyTree) -> tuple[int, Kept, Info] | None:
        """The latest checkpoint that can be read, with its step and `Info` of all steps; None where there is none.

        Raises:
          ValueError: it is of other parameters, of another state, or of another key.
        """
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                about = self.manager.restore(step, args=self.args.Composite(about=self.args.JsonRestore())).about
                arrays = self.manager.restore(step, args=self.args.Composite(arrays=self.args.StandardRestore())).arrays
                leaves = files.unpacked(arrays, about["leaves"])
                # older ones hold their history themselves
                history = self._rows(step, about["history"]) if "history" in about else None
            except Exception as error:  # truncated, or changed by another hand
                warnings.warn(
                    f"fit: the checkpoint of step {step} in {self.path} cannot be read ({type(error).__name__}); the "
                    "one before it is taken",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.manager.delete(step)  # its place is needed
                continue
            files.check_version(about, self.path)
            given = Kept(params, state, Seen(), 0)
            start = [leaf for leaf in about["leaves"] if leaf[0].startswith((".params", ".state"))]
            expected = [leaf for leaf in files.listed(given) if leaf[0].startswith((".params", ".state"))]
            files.check_leaves(start, expected, self.path)
            if about["key"] != self.key:
                raise ValueError(f"key: got another one than that of the checkpoint in {self.path}; give the same key")
            count = len(expected)
            tree = params, state
            params, state = jax.tree.unflatten(jax.tree.structure(tree), files.restored(leaves[:count], tree))
            self.last = step
            *seen, reason = (leaf.item() for leaf in leaves[count : count + len(Seen._fields) + 1])
            older: Any = leaves[count + len(Seen._fields) + 1 :]
            return step, Kept(params, state, Seen(*seen), reason), history or Info(*older)
        return None
