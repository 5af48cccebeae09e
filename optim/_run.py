"""Many steps of a rule in one compiled loop, which can be vmapped over data sets and restarts."""

import enum
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo import Params
from elbo.extend import PyTree, axes_of, varying

from ._arguments import require_count, require_params, require_rule, require_tolerance
from ._common_subexpressions import share
from ._rule import Info, Rule
from ._summary import speed

REJECTIONS = 10
"""How many updates in a row may be rejected (not finite) before a run gives up."""


class Reason(enum.IntEnum):
    """Why a run ended."""

    CONVERGED = 0
    """The objective per datum changed by no more than the tolerance allows, with as many data dropped as before."""
    MAX_STEPS = 1
    """All the steps asked for were taken."""
    NONFINITE = 2
    """`REJECTIONS` updates in a row had a number that is not finite; the last good parameters were kept."""
    STOPPED = 3
    """A callback or a person stopped it (`fit` only)."""

    def __str__(self) -> str:
        return self.name


class Result(NamedTuple):
    """What `run` and `fit` return. Those of `fit` are on the host: NumPy arrays, an int, a `Reason`.

    Attributes:
      params: the last parameters.
      state: the rule's state; `run(..., params, state=state, first=steps)` goes on from here.
      history: `Info` of every step. From `run` arrays of the length asked for; after the steps taken `elbo` and
        `objective` hold −∞ and the others 0 or False. From `fit` only the steps taken, None if there were none.
      steps: how many were taken.
      reason: a value of `Reason`.
      final: `Info` of the parameters returned, where that of the last step is of those before it; `final.finite` says
        whether one more step would be. Sampled bounds are drawn with the key of that step. From `fit` None if no step
        was taken, or if Ctrl-C came once more.
      trouble: from `fit`, what it found out where an update was rejected or data were left out; else None.
    """

    params: Params
    state: PyTree
    history: Info | None
    steps: jax.Array | int
    reason: jax.Array | Reason
    final: Info | None
    trouble: Any = None

    def __str__(self) -> str:
        """Of a result of `fit`: how it ended, the last objective, and the parameters."""
        if not isinstance(self.reason, Reason):
            return repr(self)
        last = (
            self.final
            if self.final is not None or self.history is None
            else jax.tree.map(lambda a: a[-1], self.history)
        )
        value = "" if last is None else f", {float(last.objective):.6g} nats a datum"
        lines = [f"{self.steps} steps, {self.reason}{value}"]
        if self.history is not None and (told := speed(np.asarray(self.history.objective))):
            lines.append(told)
        return "\n".join([*lines, repr(self.params)])

    def write_csv(self, path: str | Path) -> None:
        """Writes the history, a row for each step, under the names of `Info`."""
        columns = [np.asarray(column, float)[: int(self.steps)] for column in self._steps()]
        np.savetxt(
            path, np.column_stack(columns), delimiter=",", header=",".join(Info._fields), comments="", fmt="%.9g"
        )

    def plot(self) -> Any:
        """The objective of every step, and below it what went wrong, as a figure of matplotlib (extra `demo`)."""
        import matplotlib.pyplot as plt

        history = self._steps()
        figure, (above, below) = plt.subplots(2, sharex=True, height_ratios=[3, 1], layout="constrained")
        steps = np.arange(int(self.steps))
        above.plot(steps, np.asarray(history.objective)[: len(steps)])
        above.set(ylabel="objective, nats a datum", title=f"{len(steps)} steps, {Reason(int(self.reason))}")
        for name in ("dropped", "empty", "floored"):
            below.plot(steps, np.asarray(getattr(history, name))[: len(steps)], label=name)
        below.set(xlabel="step", ylabel="count", ylim=(0, None))
        below.xaxis.get_major_locator().set_params(integer=True)
        below.legend()
        return figure

    def _steps(self) -> Info:
        if self.history is None:
            raise ValueError("history: is None, for no step was taken")
        return self.history


@partial(jax.jit, static_argnames=("rule", "steps"))
def run(
    rule: Rule,
    params: Params,
    ys: PyTree,
    *,
    key: jax.Array | None = None,
    steps: int = 1000,
    tolerance: float | jax.Array | None = None,
    weights: jax.Array | None = None,
    state: PyTree = None,
    first: int | jax.Array = 0,
) -> Result:
    """Up to `steps` updates of a rule, compiled once for each rule, shape and number of steps; a pure function.

    Under vmap (over data sets, restarts, keys) each member stops by itself; the loop ends with the last.

    Args:
      rule: any rule. Keep it in a variable: a rule made anew is a new program.
      params: where to start.
      ys: pytree of data with a leading axis N.
      key: for rules that sample; step i uses fold_in(key, first + i).
      steps: at most how many.
      tolerance: stop when |change of the objective per datum| <= tolerance · max(1, |objective|), in nats; what is
        below 32 ε of the objective's dtype (4e-6 in float32) counts as that, but for 0; None: never. Only without one
        is the run differentiable in reverse mode.
      weights: [N].
      state: of an earlier run, to go on; by default `rule.init(params)`.
      first: number of steps taken before, for the keys.

    >>> import elbo

    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.array([[0.0], [0.1], [5.0], [5.1]])
    >>> rule, starts = optim.em_step(mixture.model(2)), jax.random.split(jax.random.key(0), 3)
    >>> starts = jax.vmap(lambda k: mixture.init(k, ys, 2))(starts)
    >>> runs = jax.vmap(lambda start: run(rule, start, ys, steps=20, tolerance=1e-6))(starts)
    >>> [Reason(r).name for r in runs.reason.tolist()]
    ['CONVERGED', 'CONVERGED', 'CONVERGED']
    """
    require_rule("rule", rule)
    require_params(params)
    require_count("steps", steps, 0)
    require_tolerance(tolerance)
    state = rule.init(params) if state is None else state
    if tolerance is not None:
        return _run(update_of(rule), steps, tolerance, params, state, ys, key, weights, first)
    update, consts, _ = share(update_of(rule), step_key(key, first), params, state, ys, weights)

    @jax.custom_jvp
    def fast(consts, *args):
        return _run(partial(update, consts), steps, None, *args)

    @fast.defjvp
    def fast_jvp(primals, tangents):
        # a while loop has no derivative in reverse mode, a scan has
        return jax.jvp(lambda consts, *args: _scan(partial(update, consts), steps, *args), primals, tangents)

    return fast(consts, params, state, ys, key, weights, first)


def best(runs: Result) -> Result:
    """The run of a batch (made by vmap over starts) whose parameters returned drop the fewest data, and of these those
    with the highest objective; NaN never wins.

    A mean over fewer data is none to compare with: parameters that call half of the data impossible may explain the
    other half best.

    >>> objective, dropped = jnp.array([-3.0, -1.0, 0.0]), jnp.array([0, 0, 9])
    >>> final = jax.tree.map(lambda a: jnp.broadcast_to(a, 3), Info(objective, objective, dropped=dropped))
    >>> best(Result(jnp.arange(3.0), (), (), (), (), final)).params.tolist()
    1.0
    """
    assert runs.final is not None  # of `run`, not of `fit`
    objective, dropped = runs.final.objective, runs.final.dropped
    known = ~jnp.isnan(objective)
    fewest = jnp.min(jnp.where(known, dropped, jnp.iinfo(jnp.int32).max))
    winner = jnp.argmax(jnp.where(known & (dropped <= fewest), objective, -jnp.inf))
    return jax.tree.map(lambda leaf: leaf[winner], runs)


class Seen(NamedTuple):
    """What a loop remembers of the steps before it.

    Attributes:
      objective: of the last step; −∞ if there was none.
      dropped: how many data it dropped.
      rejections: how many steps just before were rejected.
    """

    objective: jax.Array | float = float("-inf")
    dropped: jax.Array | int = 0
    rejections: jax.Array | int = 0


def judge(info: Info, seen: Seen, tolerance: float | jax.Array | None) -> tuple[Seen, jax.Array]:
    """What to remember of a step, and whether a run ends with it: MAX_STEPS where it may go on."""
    objective = jnp.asarray(info.objective)
    allowed = jnp.asarray(-1.0 if tolerance is None else tolerance, objective.dtype)
    # steps may go to and fro by rounding for ever
    allowed = jnp.where(allowed > 0, jnp.maximum(allowed, 32 * jnp.finfo(objective.dtype).eps), allowed)
    rejections = jnp.where(info.finite & jnp.isfinite(objective), 0, seen.rejections + 1).astype(jnp.int32)
    small = jnp.abs(objective - seen.objective) <= allowed * jnp.maximum(1, jnp.abs(objective))
    # a mean over other data is none to compare with
    same = small & info.finite & (info.dropped == seen.dropped)
    reason = jnp.where(same, Reason.CONVERGED, Reason.MAX_STEPS)
    reason = jnp.where(rejections >= REJECTIONS, Reason.NONFINITE, reason)
    return Seen(info.objective, info.dropped, rejections), reason.astype(jnp.int32)


def loop(update, params, state, ys, key, weights, tolerance, first, limit, seen: Seen, size: int) -> tuple:
    """What `run` and `fit` have in common: at most `limit` steps, a while loop with a history of `size` entries.

    Returns params, state, history, steps, reason. The other arguments are those of `run`.
    """

    def one(i, params, state):
        return update(step_key(key, first + i), params, state, ys, weights)

    def going(carry):
        more = carry[0] < limit
        # under vmap a loop that ends by what is in the data selects among all that it carries, in every step
        return more if tolerance is None else more & (carry[-1] == Reason.MAX_STEPS)

    def advance(carry):
        i, seen, params, state, history, _ = carry
        params, state, info = one(i, params, state)
        history = jax.tree.map(lambda h, a: h.at[i].set(a), history, info)
        seen, reason = judge(info, seen, tolerance)
        return varying((i + 1, seen, params, state, history, reason), axes)

    axes = axes_of(params, state, ys, key, weights, first)
    blank = jax.eval_shape(one, jnp.zeros((), jnp.int32), params, state)[2]
    history = jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), blank)
    # −∞ and no NaN, which jax_debug_nans would take for a fault; neither can be mistaken for a measurement
    history = history._replace(**{f: jnp.full_like(getattr(history, f), -jnp.inf) for f in ("elbo", "objective")})
    kinds = (blank.objective.dtype, blank.dropped.dtype, jnp.int32)
    seen = Seen(*(jnp.asarray(a, kind) for a, kind in zip(seen, kinds, strict=True)))
    zero = jnp.zeros((), jnp.int32)
    start = varying((zero, seen, params, state, history, zero + Reason.MAX_STEPS), axes)
    taken, _, params, state, history, reason = jax.lax.while_loop(going, advance, start)
    return params, state, history, taken, reason


def _run(update, steps, tolerance, params, state, ys, key, weights, first) -> Result:
    """The steps, and then the same loop for one step more, of which nothing but the report is kept."""

    def turn(i, runs):
        _, before = runs
        params, state, _, taken, _ = before
        limit = jnp.where(i == 0, steps, 1)
        return before, loop(
            update, params, state, ys, key, weights, tolerance, first + taken, limit, Seen(), max(steps, 1)
        )

    axes = axes_of(params, state, ys, key, weights, first)
    shapes = jax.eval_shape(lambda params, state: turn(0, (None, (params, state, 0, 0, 0)))[1], params, state)
    _, _, history, taken, reason = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    start = varying((params, state, history, taken, reason), axes)
    before, after = jax.lax.fori_loop(0, 2, turn, (start, start))
    params, state, history, taken, reason = before
    history, final = jax.tree.map(lambda a: a[:steps], history), jax.tree.map(lambda a: a[0], after[2])
    return Result(params, state, history, taken, reason, final)


def _scan(update, steps, params, state, ys, key, weights, first) -> Result:
    """The same without a tolerance, differentiable in reverse mode."""

    def step(carry, i):
        params, state = carry
        params, state, info = update(step_key(key, first + i), params, state, ys, weights)
        return (params, state), info

    (params, state), history = jax.lax.scan(step, (params, state), jnp.arange(steps, dtype=jnp.int32))
    _, final = step((params, state), jnp.asarray(steps, jnp.int32))
    good = history.finite & jnp.isfinite(history.objective)
    gave_up = ~jnp.any(good[-REJECTIONS:]) & (steps >= REJECTIONS)
    reason = jnp.where(gave_up, Reason.NONFINITE, Reason.MAX_STEPS)
    return Result(params, state, history, jnp.asarray(steps, jnp.int32), reason.astype(jnp.int32), final)


def update_of(rule: Rule) -> Callable[..., tuple]:
    """Its update, of positional arguments."""

    def update(key, params, state, ys, weights):
        return rule.update(key, params, state, ys, weights=weights)

    return update


def step_key(key: jax.Array | None, step: int | jax.Array) -> jax.Array | None:
    """The key of one step."""
    return None if key is None else jax.random.fold_in(key, step)
