"""What people ask a fitted hidden Markov model: filtering, smoothing, decoding, prediction, matching of states."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbo
from elbo.extend import PyTree

from ._questions import each


class Decoded(NamedTuple):
    """Most probable paths.

    Attributes:
      states: int [N, T], −1 in the padding; −1 throughout where every path is impossible.
      score: ln P(path, y), [N], nats; −∞ where every path is impossible.
    """

    states: jax.Array
    score: jax.Array


@partial(jax.jit, static_argnames="model")
def smooth(model: elbo.Model, params: elbo.Params, ys: PyTree) -> jax.Array:
    """P(z_t | all of y), [N, T, K]; zeros in the padding, and where y is impossible."""
    return each(lambda params, y: _posterior(model, params, y).mean().states, params, ys)


@partial(jax.jit, static_argnames="model")
def filter(model: elbo.Model, params: elbo.Params, ys: PyTree) -> jax.Array:  # noqa: A001 - the term of the field
    """P(z_t | y_1..t), [N, T, K]; zeros in the padding, and where y_1..t is impossible.

    >>> from elbo.models import hmm
    >>> from elbo.models.families import Categorical
    >>> coin = Categorical.create(jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    >>> theta = hmm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), coin)
    >>> filter(hmm.model(2), elbo.Params(theta), jnp.array([[0, 1]])).tolist()
    [[[0.6667, 0.3333], [0.0, 1.0]]]
    """
    return each(lambda params, y: jnp.exp(_posterior(model, params, y).filtered()), params, ys)


@partial(jax.jit, static_argnames="model")
def decode(model: elbo.Model, params: elbo.Params, ys: PyTree) -> Decoded:
    """The most probable path of each sequence (Viterbi).

    >>> from elbo.models import hmm
    >>> from elbo.models.families import Categorical
    >>> start, steps = hmm.left_to_right(2)
    >>> theta = hmm.Theta(start, steps, Categorical.create(jnp.eye(2)))
    >>> ys = jnp.array([[0, 1, 1], [1, 0, 0]])  # the second is impossible
    >>> decode(hmm.model(2), elbo.Params(theta), ys).states.tolist()
    [[0, 1, 1], [-1, -1, -1]]
    """

    def one(params, y):
        states, score = _posterior(model, params, y).best()
        possible = score > elbo.numerics.IMPOSSIBLE
        # a NaN is neither: it is left for the reader to see
        return jnp.where(score <= elbo.numerics.IMPOSSIBLE, -1, states), jnp.where(
            possible | jnp.isnan(score), score, -jnp.inf
        )

    return Decoded(*each(one, params, ys))


@partial(jax.jit, static_argnames="model")
def predict(model: elbo.Model, params: elbo.Params, ys: PyTree) -> jax.Array:
    """P(z_T+1 | y_1..T) after the last frame of each sequence, [N, K]; zeros where y is impossible."""

    def one(params, y):
        q = _posterior(model, params, y)
        if q.transition.ndim != 2:
            raise ValueError(
                f"model: its posterior has transitions {list(q.transition.shape)}, one for each step, expected [K, K]: "
                "there is none for the step after the last frame"
            )
        now = jnp.exp(q.filtered()[q.length - 1])
        ahead = jnp.dot(now, jnp.exp(q.transition - jnp.max(q.transition)), precision=elbo.PRECISION)
        total = jnp.sum(ahead)
        return ahead / jnp.where(total > 0, total, 1)

    return each(one, params, ys)


def match(states: Any, reference: Any) -> np.ndarray:
    """The naming of states that agrees best with a reference, by the Hungarian method; not for use under jit.

    Args:
      states: int, any shape; negative where there is none.
      reference: int, same shape.

    Returns:
      `names`, int [K], with K one more than the largest state: `names[states]` are the states renamed. With more states
      than names in the reference, those left over get −1.

    >>> match([0, 0, 1, 1, 2], [1, 1, 0, 0, 0]).tolist()
    [1, 0, -1]
    """
    states, reference = (np.asarray(a).ravel().astype(np.int64) for a in (states, reference))
    if states.shape != reference.shape:
        raise ValueError(f"reference: got {reference.size} labels for {states.size} states, expected one for each")
    real = (states >= 0) & (reference >= 0)
    if not real.any():
        raise ValueError("states, reference: no place has both a state and a label (>= 0), expected at least one")
    counts = np.zeros((states.max() + 1, reference.max() + 1), int)
    np.add.at(counts, (states[real], reference[real]), 1)
    names = np.full(len(counts), -1)
    rows, columns = optax.assignment.hungarian_algorithm(jnp.asarray(-counts, float))
    names[np.asarray(rows)] = np.asarray(columns)
    return names


def _posterior(model: elbo.Model, params: elbo.Params, y: PyTree) -> elbo.posteriors.ChainPosterior:
    q = model.posterior(params, y)
    if not isinstance(q, elbo.posteriors.ChainPosterior):
        raise TypeError(
            f"model: its posterior is a {type(q).__name__}, expected a model of chains, such as hmm.model(K)"
        )
    return q
