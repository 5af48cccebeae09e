"""The exact posterior P_Θ(z|y) as an encoder, derived from log_joint."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp

from ._types import PyTree
from ._values import described, value
from .numerics import widen
from .posteriors import Posterior, Structure


def terms(log_joint: Callable[..., Any], *args: PyTree) -> tuple[jax.Array, ...]:
    """ln P_Θ(z, y) as a tuple of terms, whatever log_joint returned; raises unless each is a floating-point scalar."""
    out = log_joint(*args)
    out = tuple(out) if isinstance(out, (tuple, list)) else (out,)
    if not out:
        raise ValueError("log_joint: returned no term, expected a floating-point scalar or a tuple of at least one")
    for i, term in enumerate(out):
        shape, dtype = jnp.shape(term), jnp.result_type(term)
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"log_joint: term {i} is {dtype}{list(shape)} for one datum, expected a floating-point scalar. "
                "log_joint sees one datum without a batch axis; sum over its own axes"
            )
    return out


@value
class ExactEncoder:
    """An encoder whose Ψ is shaped like Θ and whose posterior is P_Ψ(z|y) itself; made by `exact`."""

    log_joint: Callable[..., Any]
    structure: Structure

    def __repr__(self) -> str:
        return described("exact", self.log_joint, self.structure)

    def __call__(self, psi: PyTree, y: PyTree) -> Posterior:
        """The posterior of one datum under the parameters psi."""
        y = widen(y)
        return self.structure.posterior(lambda z: reduce(add, terms(self.log_joint, psi, z, y)), y)

    def e_step(self, theta: PyTree, psi: PyTree) -> PyTree:
        """The exact E step, argmax over Ψ of L: the copy Ψ ← Θ."""
        del psi
        return theta


def exact(log_joint: Callable[..., Any], structure: Structure) -> ExactEncoder:
    """The exact posterior of a log_joint as an encoder.

    For discrete z (an indicator) log_joint must be affine in z: its gradient in z is the log potentials of P(z|y).
    For Gaussian z it must be quadratic: minus its Hessian is the precision. Both are checked while tracing.

    Args:
      log_joint: `log_joint(theta, z, y)` for one datum, a scalar or a tuple of scalars.
      structure: the shape of z: `categorical(K)`, `bernoulli(D)`, `gaussian(D)`, `chain(K)`, `semi_markov(K, L)`,
        `gaussian_chain(D)`, `alignment()`, `tree(N, P)`, or a `Structure` of your own.

    Returns:
      `encoder(psi, y)`, whose `e_step(theta, psi)` is the exact E step.

    >>> import jax.numpy as jnp
    >>> import elbo
    >>> encoder = exact(lambda theta, z, y: z @ (theta * y), elbo.categorical(2))
    >>> encoder(jnp.log(jnp.array([1.0, 3.0])), 1.0).mean().tolist()
    [0.25, 0.75]
    """
    return ExactEncoder(log_joint, structure)
