"""`fit` on a stream: a Python loop over passes, in which nothing but sums stays on the device."""

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from elbo import Params
from elbo.extend import PyTree

from ._checkpoints import Kept, Writer
from ._compose import streaming
from ._history import History
from ._rule import Info, Rule
from ._run import Reason, Result, Seen, judge, step_key
from ._search import Rejected, Stream, look_for
from ._source import Source, StreamError
from ._trouble import Trouble, said


class Before(NamedTuple):
    """Where a run begins: with nothing, or with what a checkpoint holds.

    Attributes:
      params, state: to begin with.
      steps: taken before.
      seen, reason: of the last of them.
      history: `Info` of them; None where there are none.
    """

    params: Params
    state: PyTree
    steps: int
    seen: Seen
    reason: Reason
    history: Info | None

    @classmethod
    def of(cls, step: int, kept: Kept, history: Info) -> "Before":
        """From a checkpoint; one that was stopped by a person goes on."""
        reason = Reason.MAX_STEPS if kept.reason == Reason.STOPPED else Reason(kept.reason)
        return cls(kept.params, kept.state, step, kept.seen, reason, history)


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
    params, state, done, seen, reason, _ = before
    history = History(before.history)
    update, source = streaming(rule), Source(stream, params)
    bad: Rejected | None = None
    before_last: tuple | None = None
    begin = time.monotonic()

    def result(trouble: Trouble | None = None) -> Result:
        return Result(params, state, history.rows(0, done), done, reason, None, trouble)

    try:
        while done < steps and reason is Reason.MAX_STEPS:
            new = update(step_key(key, first + done), params, state, source)
            info = jax.tree.map(np.asarray, new[2])
            new_seen, why = judge(info, seen, tolerance)
            if bad is None and not info.finite:
                bad = Rejected(params, state, done, 0)
            before_last = (params, step_key(key, first + done)) if info.dropped else None
            now = Seen(*(np.asarray(a).item() for a in new_seen))
            history.add(jax.tree.map(lambda a: a[None], info))
            # all at once: Ctrl-C may come between any two lines
            (params, state), done, seen, reason = new[:2], done + 1, now, Reason(int(why))
            assert source.totals is not None
            show(done, info, (done - before.steps) * source.totals[1] / (time.monotonic() - begin))
            if writer is not None and writer.due(done):
                writer.write(done, Kept(params, state, seen, int(reason)), history)
            if callback is not None and callback(first + done, params, info) and reason is Reason.MAX_STEPS:
                reason = Reason.STOPPED
    except KeyboardInterrupt:
        reason = Reason.STOPPED
    except StreamError as error:
        error.result = result()
        error.add_note(f"fit: after {done} steps; the parameters until then are in this error's `result.params`")
        raise
    finally:
        if writer is not None and done:
            writer.write(done, Kept(params, state, seen, int(reason)), history)
    trouble = None
    with contextlib.suppress(KeyboardInterrupt):
        trouble = look_for(rule, key, first, bad, before_last, Stream(source))
    last = history.rows(done - 1, done)
    if told := said(
        None if last is None else jax.tree.map(lambda a: a[0], last), trouble, "in the last pass there were "
    ):
        warnings.warn(f"fit: {told}", RuntimeWarning, stacklevel=3)
    return result(trouble)
