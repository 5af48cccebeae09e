"""What people ask a fitted hidden Markov model: filtering, smoothing, decoding, prediction, matching of states."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbo

Tree = Any


class Decoded(NamedTuple):
    """Most probable paths.

    Attributes:
      states: int [N, T], −1 in the padding.
      score: ln P(path, y), [N], nats.
    """

    states: jax.Array
    score: jax.Array


@partial(jax.jit, static_argnames="model")
def smooth(model: elbo.Model, theta: Tree, ys: Tree) -> jax.Array:
    """P(z_t | all of y), [N, T, K]; zeros in the padding."""
    return jax.vmap(lambda y: _posterior(model, theta, y).mean().states)(ys)


@partial(jax.jit, static_argnames="model")
def filter(model: elbo.Model, theta: Tree, ys: Tree) -> jax.Array:  # noqa: A001 - the term of the field
    """P(z_t | y_1..t), [N, T, K]; zeros in the padding.

    >>> from models import hmm
    >>> from models.families import Categorical
    >>> coin = Categorical.create(jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    >>> theta = hmm.Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), coin)
    >>> filter(hmm.model(2), theta, jnp.array([[0, 1]])).tolist()
    [[[0.6667, 0.3333], [0.0, 1.0]]]
    """
    return jax.vmap(lambda y: jnp.exp(_posterior(model, theta, y).filtered()))(ys)


@partial(jax.jit, static_argnames="model")
def decode(model: elbo.Model, theta: Tree, ys: Tree) -> Decoded:
    """The most probable path of each sequence (Viterbi)."""
    return Decoded(*jax.vmap(lambda y: _posterior(model, theta, y).best())(ys))


@partial(jax.jit, static_argnames="model")
def predict(model: elbo.Model, theta: Tree, ys: Tree) -> jax.Array:
    """P(z_T+1 | y_1..T) after the last frame of each sequence, [N, K]."""

    def one(y):
        last = elbo.padded(y).length - 1
        now = jnp.exp(_posterior(model, theta, y).filtered()[last])
        return jnp.dot(now, theta.transition.probabilities(), precision=elbo.PRECISION)

    return jax.vmap(one)(ys)


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
    states, reference = np.asarray(states).ravel(), np.asarray(reference).ravel()
    if states.shape != reference.shape:
        raise ValueError(f"reference: got {reference.size} labels for {states.size} states, expected one for each")
    real = (states >= 0) & (reference >= 0)
    counts = np.zeros((states[real].max() + 1, reference[real].max() + 1), int)
    np.add.at(counts, (states[real], reference[real]), 1)
    names = np.full(len(counts), -1)
    rows, columns = optax.assignment.hungarian_algorithm(jnp.asarray(-counts, float))
    names[np.asarray(rows)] = np.asarray(columns)
    return names


def _posterior(model: elbo.Model, theta: Tree, y: Tree) -> elbo.Chain:
    q = model.encoder(theta, y)
    if not isinstance(q, elbo.Chain):
        raise TypeError(
            f"model: its posterior is a {type(q).__name__}, expected a model of chains, such as hmm.model(K)"
        )
    return q
