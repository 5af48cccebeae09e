"""`fit` on a stream: a Python loop over passes, in which nothing but sums stays on the device."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from elbo import Params
from elbo.extend import PyTree

from ._compose import streaming
from ._rule import Info, Rule
from ._run import Reason, Result, Seen, judge, step_key
from ._source import Source, StreamError


def fit_stream(
    rule: Rule,
    params: Params,
    stream: Any,
    key: jax.Array | None,
    steps: int,
    tolerance: float | None,
    state: PyTree,
    first: int,
    show: Callable[..., None],
    callback: Callable[[int, Params, Info], Any] | None,
) -> Result:
    """See `fit`. A step is one update, which takes one pass over the stream or a few."""
    update, source = streaming(rule), Source(stream, params)
    history: list[Info] = []
    reason, seen = Reason.MAX_STEPS, Seen()
    begin = time.monotonic()

    def result() -> Result:
        joined = jax.tree.map(lambda *a: np.stack(a), *history) if history else None
        return Result(params, state, joined, len(history), reason, None)

    try:
        while len(history) < steps and reason is Reason.MAX_STEPS:
            new = update(step_key(key, first + len(history)), params, state, source)
            # all at once: Ctrl-C may come between any two lines
            info = jax.tree.map(np.asarray, new[2])
            params, state, history = new[0], new[1], [*history, info]
            seen, why = judge(info, seen, tolerance)
            reason = Reason(int(why))
            assert source.totals is not None
            show(len(history), info, len(history) * source.totals[1] / (time.monotonic() - begin))
            if callback is not None and callback(first + len(history), params, info) and reason is Reason.MAX_STEPS:
                reason = Reason.STOPPED
    except KeyboardInterrupt:
        reason = Reason.STOPPED
    except StreamError as error:
        error.result = result()
        error.add_note(
            f"fit: after {len(history)} steps; the parameters until then are in this error's `result.params`"
        )
        raise
    return result()
