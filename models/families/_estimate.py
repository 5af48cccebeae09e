"""Fitting a family to weighted data when nothing is latent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from elbo.extend import PyTree, with_tap

from .._chunks import sum_rows


def weighted_statistics(family: Any, weights: jax.Array, *data: PyTree) -> PyTree:
    """Σ_n w_n T(x_n), in the family's coordinates.

    Args:
      family: with any batch shape.
      weights: [N, *batch], how much of datum n belongs to each component.
      data: the arguments of `family.log_prob`, each with a leading axis N.
    """
    zeros = family.zero_statistics()

    def log_probs(tap):
        return jax.vmap(lambda *x: with_tap(family, tap).log_prob(*x))(*data)

    value, pull = jax.vjp(log_probs, zeros)
    return pull(jnp.broadcast_to(weights, value.shape).astype(value.dtype))[0]


def estimate(family: Any, weights: jax.Array, *data: PyTree, rounds: int = 2) -> Any:
    """The family of maximum likelihood for weighted data; `family` gives the kind, the batch shape and the floor.

    Args:
      family: where to start. The first round is taken from its coordinates, the others from those of the estimate: in
        float32 the second repairs what a far start has rounded away.
      weights: [N, *batch].
      data: the arguments of `family.log_prob`, each with a leading axis N.
      rounds: how often.

    >>> from elbo.models.families import Categorical
    >>> estimate(Categorical(jnp.zeros(2)), jnp.ones(4), jnp.array([0, 1, 1, 1])).probabilities().tolist()
    [0.25, 0.75]
    """
    return estimate_rows(family, lambda weights, *data: (weights, data), weights, *data, rounds=rounds)


def estimate_rows(family: Any, weigh: Callable[..., tuple[jax.Array, tuple]], *rows: PyTree, rounds: int = 2) -> Any:
    """The same of data whose weights are made chunk by chunk: no array of [N, *batch] numbers is.

    Args:
      family: as in `estimate`.
      weigh: `weigh(*rows)` of a chunk of rows -> (weights [n, *batch], data).
      rows: pytrees with a leading axis N.
      rounds: how often.
    """

    def chunk(family, counted, *rows):
        weights, data = weigh(*rows)
        return weighted_statistics(family, weights * counted.reshape(-1, *(1,) * (weights.ndim - 1)), *data)

    def once(_, family):
        return family.maximize(sum_rows(lambda *args: chunk(family, *args), *rows))

    # a loop that is not unrolled takes half as long to compile
    return jax.lax.fori_loop(0, rounds, once, family)
