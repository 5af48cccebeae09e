"""The compiled programs of all estimators: restarts, and questions to what was fitted.

Models, rules, starts and questions are values, equal where their parts are: two estimators of one kind share programs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.extend import PyTree, converted

Start = Callable[[jax.Array, PyTree, jax.Array], elbo.Params]


class Outcome(NamedTuple):
    """Of the best run.

    Attributes:
      params: where it ended.
      final: what the rule says of them.
      steps: how many it took.
      reason: a value of `optim.Reason`.
    """

    params: elbo.Params
    final: Any
    steps: jax.Array
    reason: jax.Array


class Data(NamedTuple):
    """Data as the programs take them, padded to few different sizes.

    Attributes:
      ys: pytree of arrays with a leading axis.
      weights: 1 for data, 0 for padding.
    """

    ys: PyTree
    weights: np.ndarray


def dtype() -> np.dtype:
    """What JAX computes in: float32, or float64 where it was told so."""
    return np.dtype(jnp.result_type(float))


def size(count: int, least: int = 8) -> int:
    """The size to which so many are padded: a multiple of `least`, and less than an eighth more where they are many.

    A program is compiled for each shape; the folds of a cross-validation, which differ by one, shall have one.

    >>> [size(n) for n in (5, 100, 101, 1000, 1001)]
    [8, 104, 104, 1024, 1024]
    """
    step = max(least, 1 << max(count.bit_length() - 4, 0))
    return -(-count // step) * step


def fit(model: elbo.Model, start: Start, data: Data, keys: jax.Array, steps: int, tolerance: float) -> Outcome:
    """EM from a start for each key [R], all at once, and the best of the runs."""
    return _climb(optim.em_step(model), _starts(start, keys, *data), *data, tolerance, steps=steps)


def go_on(model: elbo.Model, params: elbo.Params, data: Data, steps: int, tolerance: float) -> Outcome:
    """EM from given parameters, in the dtype of `dtype()`."""
    params = jax.tree.map(lambda a: a[None], converted(params, dtype()))
    return _climb(optim.em_step(model), params, *data, tolerance, steps=steps)


@partial(jax.jit, static_argnames="start")
def _starts(start, keys, ys, weights):
    return jax.vmap(lambda key: start(key, ys, weights))(keys)


@partial(jax.jit, static_argnames=("rule", "steps"))
def _climb(rule, starts, ys, weights, tolerance, *, steps) -> Outcome:
    def climb(params):
        return optim.run(rule, params, ys, steps=steps, tolerance=tolerance, weights=weights)

    won = optim.best(jax.vmap(climb)(starts))
    return Outcome(won.params, won.final, jnp.asarray(won.steps), jnp.asarray(won.reason))


@partial(jax.jit, static_argnames="model")
def means(model: elbo.Model, params: elbo.Params, ys: PyTree) -> jax.Array:
    """E[z | y] of each datum: responsibilities [N, K], or factors [N, Q]."""
    return jax.vmap(lambda y: model.posterior(params, y).mean())(ys)


@partial(jax.jit, static_argnames="reader")
def read(reader: Callable[[PyTree], dict[str, jax.Array]], theta: PyTree) -> dict[str, jax.Array]:
    """`reader(theta)`, compiled: names and values of what an estimator says of its parameters."""
    return reader(theta)


@partial(jax.jit, static_argnames=("sampler", "count"))
def draw(sampler: Callable, key: jax.Array, theta: PyTree, count: int) -> Any:
    """`sampler(key, theta, count)`, compiled."""
    return sampler(key, theta, count)
