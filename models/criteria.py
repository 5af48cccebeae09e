"""Information criteria, to choose between models by likelihood and number of parameters."""

import math
from typing import Any

import jax
import numpy as np

from elbo import is_family

Tree = Any


def free_parameters(theta: Tree) -> int:
    """How many free numbers the families of theta hold (`free_parameters()` of each); other leaves count in full.

    >>> import jax.numpy as jnp
    >>> from models.families import Categorical
    >>> free_parameters((Categorical.create(jnp.array([[0.5, 0.5, 0.0]])), jnp.zeros(3)))  # a 0 is not free
    4
    """
    leaves = jax.tree.leaves(theta, is_leaf=is_family)
    return sum(leaf.free_parameters() if is_family(leaf) else int(np.size(leaf)) for leaf in leaves)


def aic(log_likelihood: float, parameters: int) -> float:
    """Akaike's criterion −2 ln P + 2 p; smaller is better. `log_likelihood` is the total of the data, nats.

    >>> aic(-100.0, 3)
    206.0
    """
    return -2 * float(log_likelihood) + 2 * parameters


def bic(log_likelihood: float, parameters: int, data: int) -> float:
    """Schwarz's criterion −2 ln P + p ln n, n observations (frames, for sequences); smaller is better.

    >>> bic(-100.0, 3, 50)
    211.736
    """
    return -2 * float(log_likelihood) + parameters * math.log(data)
