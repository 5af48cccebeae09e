"""`fit` on a stream: a Python loop over passes, in which nothing but sums stays on the device."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from elbo import Params
from elbo.extend import PyTree

from ._checkpoints import Kept, Writer
from ._compose import streaming
from ._rule import Info, Rule
from ._run import Reason, Result, Seen, judge, step_key
from ._source import Source, StreamError


class Before(NamedTuple):
    """Where a run begins: with nothing, or with what a checkpoint holds.

    Attributes:
      params, state: to begin with.
      steps: taken before.
      seen, reason: of the last of them.
      history: `Info` of them, in parts.
    """

    params: Params
    state: PyTree
    steps: int
    seen: Seen
    reason: Reason
    history: list[Info]

    @classmethod
    def of(cls, step: int, kept: Kept) -> "Before":
        """From a checkpoint; one that was stopped by a person goes on."""
        reason = Reason.MAX_STEPS if kept.reason == Reason.STOPPED else Reason(kept.reason)
        return cls(kept.params, kept.state, step, kept.seen, reason, [kept.history])


def fit_stream(
    rule: Rule,
    before: Before,
    stream: Any,
    key: jax.Array | None,
    steps: int,
    tolerance: float | None,
    first: int,
    show: Callable[..., None],
    callback: Callable[[int, Params, Info], Any] | None,
    writer: Writer | None,
) -> Result:
    """See `fit`. A step is one update, which takes one pass over the stream or a few."""
    params, state, done, seen, reason, history = before
    update, source = streaming(rule), Source(stream, params)
    begin = time.monotonic()

    def joined() -> Info:
        return jax.tree.map(lambda *a: np.concatenate(a), *history)

    def result() -> Result:
        return Result(params, state, joined() if history else None, done, reason, None)

    try:
        while done < steps and reason is Reason.MAX_STEPS:
            new = update(step_key(key, first + done), params, state, source)
            info = jax.tree.map(np.asarray, new[2])
            new_seen, why = judge(info, seen, tolerance)
            row, now = jax.tree.map(lambda a: a[None], info), Seen(*(np.asarray(a).item() for a in new_seen))
            # all at once: Ctrl-C may come between any two lines
            (params, state), done, seen, history, reason = new[:2], done + 1, now, [*history, row], Reason(int(why))
            assert source.totals is not None
            show(done, info, (done - before.steps) * source.totals[1] / (time.monotonic() - begin))
            if writer is not None and writer.due(done):
                writer.write(done, Kept(params, state, seen, int(reason), joined()))
            if callback is not None and callback(first + done, params, info) and reason is Reason.MAX_STEPS:
                reason = Reason.STOPPED
    except KeyboardInterrupt:
        reason = Reason.STOPPED
    except StreamError as error:
        error.result = result()
        error.add_note(f"fit: after {done} steps; the parameters until then are in this error's `result.params`")
        raise
    finally:
        if writer is not None and history:
            writer.write(done, Kept(params, state, seen, int(reason), joined()))
    return result()
