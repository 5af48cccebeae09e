"""A fit with a stop-watch and an exact measurement of the objective on the way."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import elbo
from elbo import optim
from elbo._types import PyTree


class Trace(NamedTuple):
    """How a run went. The vectors hold the start and every look at it since.

    Attributes:
      steps: updates so far.
      seconds: spent on them; neither compiling nor measuring is counted.
      values: the measured objective, nats per datum.
      compiling: seconds to trace and compile.
      params: the last ones.
    """

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    compiling: float
    params: elbo.Params


def fit(*args: Any, **options: Any) -> optim.Result:
    """`optim.fit` without its bar. Ctrl-C, which it takes for the end of one fit, ends the demo."""
    result = optim.fit(*args, progress=False, **options)
    if result.reason is optim.Reason.STOPPED:
        raise KeyboardInterrupt
    return result


def trace(
    rule: optim.Rule,
    params: elbo.Params,
    ys: PyTree,
    measure: Callable[[elbo.Params], jax.Array],
    *,
    key: jax.Array | None = None,
    steps: int,
    every: int,
) -> Trace:
    """A run of a rule through `optim.fit`, measured every so many steps."""
    looks = [(0, 0.0, float(measure(params)))]
    clock = [0.0, 0.0]  # seconds spent on steps, and when they last began

    def look(step, params, info):
        clock[0] += time.perf_counter() - clock[1]
        looks.append((step, clock[0], float(measure(params))))
        clock[1] = time.perf_counter()

    begin = time.perf_counter()
    fit(rule, params, ys, key=key, steps=every + 1, every=every, callback=lambda *_: None)
    first = time.perf_counter() - begin
    clock[1] = time.perf_counter()
    result = fit(rule, params, ys, key=key, steps=steps, every=every, callback=look)
    taken, seconds, values = map(np.array, zip(*looks, strict=True))
    compiling = max(first - (every + 1) * seconds[-1] / steps, 0.0)
    return Trace(taken, seconds, values, compiling, result.params)
