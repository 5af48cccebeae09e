"""The driver for people: a progress bar, a history, callbacks, and a reason for stopping."""

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elbo import Params
from elbo.extend import PyTree, batch_length

from ._arguments import require_count, require_params, require_rule, require_tolerance
from ._bar import bar
from ._checkpoints import Checkpoints, Kept, Writer
from ._fit_stream import Before, fit_stream
from ._history import History
from ._rule import Info, Rule
from ._run import Reason, Result, Seen, loop, step_key, update_of
from ._search import Memory, Rejected, look_for
from ._source import is_stream
from ._trouble import said


def fit(
    rule: Rule,
    params: Params,
    ys: PyTree,
    *,
    key: jax.Array | None = None,
    steps: int = 1000,
    tolerance: float | None = None,
    weights: jax.Array | None = None,
    state: PyTree = None,
    first: int = 0,
    every: int = 10,
    progress: bool = True,
    callback: Callable[[int, Params, Info], Any] | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
) -> Result:
    """Runs a rule, `every` steps at a time in one compiled loop, and shows how it goes.

    The result is that of `run` with the same key, whatever `every` is. Ctrl-C stops it and loses nothing. Warns at its
    end if the parameters returned drop data, or have empty components or scales at their floor, or if an update was
    rejected; and says which data, and what was not finite (`result.trouble`). For that a rejected step is taken once
    more, after the end: on a stream that is one more pass.

    Args:
      rule: any rule; the program is compiled once for each rule and shape.
      params: where to start; the caller's arrays stay valid.
      ys: pytree of data with a leading axis N; or a stream, which is read anew in every step: `Batches(arrays, size)`,
        a function that returns an iterator over batches, or a loader. A batch is a pytree of arrays with a leading
        axis, or a `Batch(ys, weights)`. The steps are those on all data, in the memory of two batches; of
        `minibatches(rule, size)` one step is a pass. The result has no `final`, which would take one more pass.
      key: for rules that sample.
      steps: at most how many.
      tolerance: stop when |change of the objective per datum| <= tolerance · max(1, |objective|), in nats; None: never.
        See `run`.
      weights: [N].
      state, first: of an earlier fit, to go on: its state, and its number of steps.
      every: steps between two looks at it by the progress bar and the callback.
      progress: whether to draw a progress bar on standard error (needs rich); nothing is written where that is no
        terminal and no notebook.
      callback: `callback(step, params, info)` with the `Info` of the last step; return True to stop.
      checkpoints: where and how often to write what is needed to go on, see `Checkpoints`.
      resume: whether to go on from the latest checkpoint, if there is one: to the same numbers, bit by bit on the same
        machine, as if the run had never stopped. `steps` counts from its first beginning; give the same arguments.

    Raises:
      StreamError: a stream fails, or its batches do not go together; its `result` is what there was before.

    >>> import jax.numpy as jnp
    >>> import elbo
    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.array([[0.0], [0.1], [5.0], [5.1]])
    >>> params = mixture.init(jax.random.key(0), ys, 2)
    >>> result = optim.fit(optim.em_step(mixture.model(2)), params, ys, tolerance=1e-6, progress=False)
    >>> result.reason.name, sorted(result.params.theta.components.mean[:, 0].tolist())
    ('CONVERGED', [0.05, 5.05])
    >>> stream = optim.Batches(np.asarray(ys), 3)
    >>> same = optim.fit(optim.em_step(mixture.model(2)), params, stream, tolerance=1e-6, progress=False)
    >>> same.steps == result.steps
    True
    """
    require_count("every", every)
    require_count("steps", steps, 0)
    require_tolerance(tolerance)
    require_rule("rule", rule)
    require_params(params)
    if not is_stream(ys):
        batch_length(ys)
    elif weights is not None:
        raise ValueError("weights: got some beside a stream, expected them in its batches: optim.Batch(ys, weights)")
    params = jax.tree.map(jnp.asarray, params)
    state = rule.init(params) if state is None else state
    if resume and checkpoints is None:
        raise ValueError("checkpoints: got None with resume=True, expected optim.Checkpoints(folder)")
    writer = None if checkpoints is None else Writer(checkpoints, key, resume)
    found = writer.read(params, state) if writer is not None and resume else None
    before = Before(params, state, 0, Seen(), Reason.MAX_STEPS, None) if found is None else Before.of(*found)
    if is_stream(ys):
        with bar(steps, progress) as show:
            return fit_stream(rule, before, ys, key, steps, tolerance, first, show, callback, writer)
    history = History(before.history)
    # Ctrl-C may come between any two lines, so that all that is known of the blocks done is set at once; and a block
    # does not reuse the memory of what it is given, which would be lost if Ctrl-C came before its result
    kept = before.params, before.state, before.steps
    # of Python's own types throughout, so that the first block is the same program as the others
    reason, seen = before.reason, before.seen
    bad: Rejected | None = None  # where to look, at the end, for why
    allowed = -1.0 if tolerance is None else tolerance
    with bar(steps, progress) as show:
        try:
            while kept[2] < steps and reason is Reason.MAX_STEPS:
                params, state, done = kept
                limit = min(every, steps - done)
                seam = (first + done, limit, seen)
                out = _block(rule, params, state, ys, key, weights, allowed, *seam, size=every)
                params, state, block, taken, why = out
                taken = int(taken)
                block = jax.tree.map(lambda a, n=taken: np.asarray(a)[:n], block)
                history.add(block)
                if bad is None and not block.finite.all():
                    bad = Rejected(*kept, int(np.argmin(block.finite)))
                kept = params, state, done = params, state, done + taken
                reason, info = Reason(int(why)), jax.tree.map(lambda a: a[-1], block)
                seen = Seen(float(info.objective), int(info.dropped), _rejected(block, int(seen.rejections)))
                show(done, info)
                if writer is not None and writer.due(done):
                    writer.write(done, Kept(params, state, seen, int(reason)), history)
                if callback is not None and callback(first + done, params, info) and reason is Reason.MAX_STEPS:
                    reason = Reason.STOPPED
        except KeyboardInterrupt:
            reason = Reason.STOPPED
    params, state, done = kept
    joined = history.rows(0, done)
    if writer is not None and done and done == history.count:
        writer.write(done, Kept(params, state, seen, int(reason)), history)
    final = trouble = None

    def again(params, state, done, steps):  # the same program for a few steps
        return _block(rule, params, state, ys, key, weights, -1.0, first + done, steps, Seen(), size=every)

    with contextlib.suppress(KeyboardInterrupt):
        if joined is not None:  # of one step more nothing but the report is kept
            final = jax.tree.map(lambda a: np.asarray(a)[0], again(params, state, done, 1)[2])
            end = (params, step_key(key, first + done)) if final.dropped else None
            trouble = look_for(rule, key, first, bad, end, Memory(ys, weights), again)
    if told := said(final, trouble, "the parameters returned have "):
        warnings.warn(f"fit: {told}", RuntimeWarning, stacklevel=2)
    return Result(params, state, joined, done, reason, final, trouble)


def _rejected(history: Info, before: int) -> int:
    """How many updates in a row were rejected up to now, with those before this history."""
    finite = np.asarray(history.finite)
    good = np.flatnonzero(finite & np.isfinite(history.objective))
    return len(finite) - 1 - int(good[-1]) if len(good) else before + len(finite)


@partial(jax.jit, static_argnames=("rule", "size"))
def _block(rule, params, state, ys, key, weights, tolerance, first, limit, seen, size):
    return loop(update_of(rule), params, state, ys, key, weights, tolerance, first, limit, seen, size)
