"""The exact posterior as a derivative of log_joint: potentials of an affine one, moments of a quadratic one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._devices import varies_over, varying
from .._polynomial import KINDS, dependence
from .._types import PyTree


class StructureError(ValueError):
    """A log_joint does not have the structure in z that a closed form needs."""


def met(obstacle: str) -> str:
    """In words, for an error, what keeps a function from being differentiated in z as the polynomial that it may be."""
    if not obstacle:
        return ""
    return f" (z meets {obstacle}" + (", which need not be that of its values)" if "rule" in obstacle else ")")


def require_degree(log_joint: Callable[[PyTree], jax.Array], z: PyTree, degree: int, message: str) -> None:
    """Raises a `StructureError` unless log_joint is a polynomial of that degree in z, whose derivatives can be read."""
    found = dependence(log_joint, z)
    if found.obstacle or found.degree > degree:  # type: ignore[operator] # without an obstacle it has a degree
        raise StructureError(f"log_joint: is not {KINDS[degree]} in z{met(found.obstacle)}, so {message}")


def affine_potentials(log_joint: Callable[[PyTree], jax.Array], shape: PyTree) -> PyTree:
    """Log potentials of P(z|y), z an indicator [*shape]: the gradient of an affine log_joint. Raises if it is not.

    shape is a tuple of numbers, or a pytree (a NamedTuple, say) of such tuples.
    """
    z = template(log_joint, shape)
    require_degree(
        *(log_joint, z, 1),
        "the gradient in z is not its potentials and the exact posterior would be silently wrong. Write z as an "
        "indicator that enters linearly (z @ log_probabilities), or use another encoder with estimator=Enumerated(), "
        "Reparameterized(), ScoreFunction() or Relaxed()",
    )
    return jax.grad(log_joint)(z)


def quadratic_potentials(log_joint: Callable[[jax.Array], jax.Array], size: int) -> tuple[jax.Array, jax.Array]:
    """Gradient at zero [D] and precision, minus the Hessian [D, D], of a quadratic log_joint. Raises if it is not."""
    z = template(log_joint, (size,))
    require_degree(
        *(log_joint, z, 2),
        "P(z|y) is not Gaussian. Use an encoder network that returns elbo.NormalPosterior(loc, log_scale), with "
        "vae_step (estimator Reparameterized())",
    )
    # forward over reverse from the constant 0: under vmap the Hessian stays unbatched unless it depends on the datum
    return jax.grad(log_joint)(z), -jax.hessian(log_joint)(z)


def template(log_joint: Callable[[PyTree], jax.Array], shape: PyTree) -> PyTree:
    """Zeros [*shape] of the dtype that log_joint computes in. Raises unless that is one floating-point scalar.

    shape is a tuple of numbers, or a pytree (a NamedTuple, say) of such tuples.
    """

    def fill(leaf):
        return jax.tree.map(leaf, shape, is_leaf=lambda node: type(node) is tuple)

    out = jax.eval_shape(log_joint, fill(lambda s: jax.ShapeDtypeStruct(s, jnp.float32)))
    if out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"log_joint: returned {out.dtype}{list(out.shape)} for one datum, expected a floating-point scalar (or a "
            "tuple of scalars). log_joint sees one datum without a batch axis; sum over its own axes"
        )
    return fill(lambda s: varying(jnp.zeros(s, out.dtype), varies_over(out)))


def origin(f: Callable[[jax.Array], jax.Array], z: jax.Array) -> jax.Array:
    """Zeros like z, to differentiate a scalar f at."""
    zeros = jnp.zeros_like(z)
    return varying(zeros, varies_over(jax.eval_shape(f, zeros)))
