"""How many numbers of theta are free, and what they cost: what `models.criteria` offers and `optim.select` uses."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._family import is_family
from ._model import Params
from ._types import PyTree


def free_parameters(theta: PyTree) -> int:
    """The dimension of a model: how many numbers of theta can be chosen freely, and make a difference to P(y).

    Each part is asked that has a method `free_parameters()`: a family, or the Theta of a model, which knows what its
    parts have in common (the latent vectors of factor analysis can be rotated without any change to P(y)). Other
    floating-point leaves count in full: the weights of a network, say, of which the likelihood knows fewer.

    A probability counts unless the model forbids it (it was 0 when the family was created): one that EM has estimated
    as 0 is a number like any other. So do components without data, which could have had some (`info.empty`).

    Args:
      theta: of one model, not a stack of several, and not under jit.

    Raises:
      TypeError: a family without a method `free_parameters`, or `elbo.Params`.
      ValueError: a stack of thetas, where a model's Theta can tell.

    >>> from elbo.models.families import Categorical
    >>> free_parameters((Categorical.create(jnp.array([[0.5, 0.5, 0.0]])), jnp.zeros(3)))  # a 0 is not free
    4
    """
    if isinstance(theta, Params):
        raise TypeError("theta: got elbo.Params, expected the parameters of the model alone, params.theta")
    return sum(_count(part) for part in jax.tree.leaves(theta, is_leaf=_counts))


def aic(log_likelihood: Any, parameters: int) -> float:
    """Akaike's criterion −2 ln P + 2 p; smaller is better.

    Args:
      log_likelihood: ln P of all data, nats, or that of each, [N]: `elbo.evidence(model)(params, ys)`. It is −∞, and
        the criterion ∞, if the model calls a datum impossible; `info.elbo` leaves such data out, and is a mean.
      parameters: p, see `free_parameters`.

    Raises:
      ValueError: a log likelihood that is NaN, as that of a datum with NaN is.

    >>> aic(-100.0, 3)
    206.0
    """
    return -2 * _total(log_likelihood) + 2 * parameters


def bic(log_likelihood: Any, parameters: int, data: float) -> float:
    """Schwarz's criterion −2 ln P + p ln n; smaller is better.

    Args:
      log_likelihood, parameters: as in `aic`.
      data: n, of the observations in the likelihood: Σ weights of independent data; frames of sequences, without the
        padding and those that are missing.

    >>> bic(-100.0, 3, 50)
    211.736
    """
    if not data > 0:
        raise ValueError(f"data: got {data}, expected a positive number of observations")
    return -2 * _total(log_likelihood) + parameters * math.log(data)


def _total(log_likelihood: Any) -> float:
    if hasattr(log_likelihood, "dropped"):
        raise TypeError(
            "log_likelihood: got the info of a rule, whose bound is a mean over the data that were not dropped; "
            "expected elbo.evidence(model)(params, ys)"
        )
    values = np.asarray(log_likelihood, np.float64)
    if wrong := np.flatnonzero(np.isnan(values)).tolist():
        raise ValueError(
            f"log_likelihood: is NaN for data {wrong[:8]}, expected ln P of each datum. Leave out data that the model "
            "cannot use, in all the models that are compared: ys[jax.vmap(model.usable)(ys)]"
        )
    return float(np.sum(values))


def _counts(node: Any) -> bool:
    return is_family(node) or _knows(node)


def _knows(node: Any) -> bool:
    return callable(getattr(type(node), "free_parameters", None))


def _count(part: Any) -> int:
    if _knows(part):
        return part.free_parameters()
    if is_family(part):
        raise TypeError(
            f"theta: the family {type(part).__name__} has no method free_parameters() -> int, how many free numbers "
            "its batch of components has; add it"
        )
    return int(np.size(part)) if jnp.issubdtype(jnp.result_type(part), jnp.inexact) else 0
