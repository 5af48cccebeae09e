"""The progress bar of `fit`, on standard error: drawn a few times a second, so that it costs a fast run nothing."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ._rule import Info

PER_SECOND = 4


@contextlib.contextmanager
def bar(steps: int, progress: bool) -> Iterator[Callable[..., None]]:
    """Shows a progress bar while inside; gives a function to move it, `show(step, info, rate)`.

    Nothing is written where standard error is neither a terminal nor a notebook's.
    """
    if not progress:
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _nothing
        return
    text = TextColumn("{task.fields[objective]:.6g} nats a datum{task.fields[trouble]}")
    columns = (TextColumn("fit"), BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=PER_SECOND) as drawn:
        task = drawn.add_task("fit", total=steps, objective=float("nan"), trouble="")
        last = time.monotonic()
        latest: tuple | None = None

        def update(step: int, info: Info, rate: float | None = None) -> None:
            trouble = [*trouble_of(info), *([] if info.finite else ["update rejected: not finite"])]
            said = "".join(f", {t}" for t in [*([] if rate is None else [f"{rate:,.0f} data/s"]), *trouble])
            drawn.update(task, completed=step, objective=float(info.objective), trouble=said)

        def show(*told: Any) -> None:
            nonlocal last, latest
            latest, now = told, time.monotonic()
            if now - last >= 1 / PER_SECOND:  # by time: blocks may be many a second
                last = now
                update(*told)

        try:
            yield show
        finally:
            if latest is not None:
                update(*latest)


def trouble_of(info: Info) -> list[str]:
    """What went wrong, in words."""
    counts = {"data dropped": info.dropped, "empty components": info.empty, "scales at their floor": info.floored}
    return [f"{int(count)} {name}" for name, count in counts.items() if count]


def _nothing(*told: Any) -> None:
    pass
