"""Many steps of a rule in one compiled loop, which can be vmapped over data sets and restarts."""

import enum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elbo import Params

from .rule import Info, Rule

Tree = Any

REJECTIONS = 10
"""How many updates in a row may be rejected (not finite) before a run gives up."""


class Reason(enum.IntEnum):
    """Why a run ended."""

    CONVERGED = 0
    """The objective per datum changed by no more than the tolerance allows."""
    MAX_STEPS = 1
    """All the steps asked for were taken."""
    NONFINITE = 2
    """`REJECTIONS` updates in a row had a number that is not finite; the last good parameters were kept."""
    STOPPED = 3
    """A callback or a person stopped it (`fit` only)."""


class Run(NamedTuple):
    """What a run returns.

    Attributes:
      params: the last parameters.
      state: the rule's state, from which another run goes on.
      history: `Info` of every step, arrays of the length asked for; after the steps taken they hold NaN, False or 0.
      steps: how many were taken; int.
      reason: a value of `Reason`; int.
    """

    params: Params
    state: Tree
    history: Info
    steps: jax.Array
    reason: jax.Array


@partial(jax.jit, static_argnames=("rule", "steps"))
def run(
    rule: Rule,
    params: Params,
    ys: Tree,
    *,
    key: jax.Array | None = None,
    steps: int = 100,
    tolerance: float | jax.Array | None = None,
    weights: jax.Array | None = None,
    state: Tree = None,
    first: int | jax.Array = 0,
) -> Run:
    """Up to `steps` updates of a rule, compiled once for each rule, shape and number of steps; a pure function.

    Under vmap (over data sets, restarts, keys) each member stops by itself; the loop ends with the last.

    Args:
      rule: any rule. Keep it in a variable: a rule made anew is a new program.
      params: where to start.
      ys: pytree of data with a leading axis N.
      key: for rules that sample; step i uses fold_in(key, first + i).
      steps: at most how many.
      tolerance: stop when |change of the objective per datum| <= tolerance · max(1, |objective|), in nats; None:
        never. Only without one is the run differentiable in reverse mode (a scan in place of a while loop).
      weights: [N].
      state: of an earlier run, to go on; by default `rule.init(params)`.
      first: number of steps taken before, for the keys.

    >>> import elbo, optim
    >>> from models import mixture
    >>> ys = jnp.array([[0.0], [0.1], [5.0], [5.1]])
    >>> rule, starts = optim.em_step(mixture.model(2)), jax.random.split(jax.random.key(0), 3)
    >>> starts = jax.vmap(lambda k: mixture.init(k, ys, 2))(starts)
    >>> runs = jax.vmap(lambda start: run(rule, start, ys, steps=20, tolerance=1e-6))(starts)
    >>> [Reason(r).name for r in runs.reason.tolist()]
    ['CONVERGED', 'CONVERGED', 'CONVERGED']
    """
    state = rule.init(params) if state is None else state
    if tolerance is not None:
        return loop(rule, params, state, ys, key, weights, tolerance, first, steps, jnp.nan, 0, steps)

    def step(carry, i):
        params, state = carry
        params, state, info = rule.update(step_key(key, first + i), params, state, ys, weights=weights)
        return (params, state), info

    (params, state), history = jax.lax.scan(step, (params, state), jnp.arange(steps))
    good = history.finite & jnp.isfinite(history.objective)
    gave_up = ~jnp.any(good[-REJECTIONS:]) & (steps >= REJECTIONS)
    reason = jnp.where(gave_up, Reason.NONFINITE, Reason.MAX_STEPS)
    return Run(params, state, history, jnp.asarray(steps, jnp.int32), reason.astype(jnp.int32))


def best(runs: Run) -> Run:
    """The run of a batch (made by vmap over starts) whose last objective is the highest; NaN never wins.

    >>> one = Run(jnp.arange(2.0), (), None, jnp.array([1, 1]), jnp.zeros(2))
    >>> history = Info(*[jnp.array([[-3.0], [-1.0]])] * len(Info._fields))
    >>> best(one._replace(history=history)).params.tolist()
    1.0
    """
    last = jnp.take_along_axis(runs.history.objective, jnp.maximum(runs.steps - 1, 0)[:, None], axis=1)[:, 0]
    winner = jnp.argmax(jnp.where(jnp.isnan(last), -jnp.inf, last))
    return jax.tree.map(lambda leaf: leaf[winner], runs)


def loop(rule, params, state, ys, key, weights, tolerance, first, limit, last, rejections, size: int) -> Run:
    """What `run` and `fit` have in common: at most `limit` steps, a while loop with a history of `size` entries.

    `last` is the objective before the first step (NaN: unknown), `rejections` how many of the steps just before it were
    rejected; the other arguments are those of `run`.
    """

    def one(i, params, state):
        return rule.update(step_key(key, first + i), params, state, ys, weights=weights)

    blank = jax.eval_shape(one, jnp.zeros((), jnp.int32), params, state)[2]
    history = jax.tree.map(lambda a: jnp.full((size, *a.shape), _nothing(a.dtype), a.dtype), blank)

    def going(carry):
        return (carry[0] < limit) & (carry[-1] == Reason.MAX_STEPS)

    def advance(carry):
        i, rejections, last, params, state, history, reason = carry
        params, state, info = one(i, params, state)
        history = jax.tree.map(lambda h, a: h.at[i].set(a), history, info)
        rejections = jnp.where(info.finite & jnp.isfinite(info.objective), 0, rejections + 1)
        change = jnp.abs(info.objective - last)
        converged = (change <= tolerance * jnp.maximum(1, jnp.abs(info.objective))) & info.finite
        reason = jnp.where(converged, Reason.CONVERGED, reason)
        reason = jnp.where(rejections >= REJECTIONS, Reason.NONFINITE, reason)
        return i + 1, rejections, info.objective, params, state, history, reason

    zero = jnp.zeros((), jnp.int32)
    last = jnp.asarray(last, blank.objective.dtype)
    start = (zero, zero + rejections, last, params, state, history, zero + Reason.MAX_STEPS)
    taken, _, _, params, state, history, reason = jax.lax.while_loop(going, advance, start)
    return Run(params, state, history, taken, reason)


def step_key(key: jax.Array | None, step: int | jax.Array) -> jax.Array | None:
    """The key of one step."""
    return None if key is None else jax.random.fold_in(key, step)


def _nothing(dtype) -> float | bool | int:
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
