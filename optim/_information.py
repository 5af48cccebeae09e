"""Standard errors from log_joint alone: the observed information by EM's own map (Louis 1982, Oakes 1999)."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from elbo import Model, Params
from elbo.extend import ChunkSize, PyTree, anywhere, is_family, widened

from ._arguments import require_model, require_params
from ._coordinates import Coordinates, Problem, complete_information, coordinates, problem, score
from ._priors import flatten
from ._summary import summary

COLUMNS = 32
"""Columns of a matrix [P, P] that are computed at once: this many E steps share a program and its memory."""


class Uncertainty(NamedTuple):
    """What `information` returns; P' is the number of named parameters, P that of free coordinates.

    Attributes:
      estimates: theta with each family replaced by its parameters by name: means, variances, probabilities, rates.
      errors: standard errors, the same tree; infinite where the data do not identify a parameter, 0 where it stands at
        the end of its range.
      missing: the fraction of information that is missing on each parameter because z is hidden, the same tree.
      bound: whether a parameter stands at the end of its range (a probability of 0, a variance at its floor) or is
        known, bool, the same tree. These are held there, and the others' errors are given them.
      unidentified: whether the data say nothing of a parameter, bool, the same tree.
      covariance: of all of them in the order of `jax.tree.leaves`, [P', P']; 0 where unidentified or at a bound.
      observed, complete: I_o and I_c in the free coordinates, [P, P].
    """

    estimates: PyTree
    errors: PyTree
    missing: PyTree
    bound: PyTree
    unidentified: PyTree
    covariance: jax.Array
    observed: jax.Array
    complete: jax.Array

    def __str__(self) -> str:
        return repr(self) if isinstance(self.covariance, jax.core.Tracer) else summary(self)


@anywhere
def information(
    model: Model,
    params: Params,
    ys: PyTree,
    *,
    prior: PyTree = None,
    weights: jax.Array | None = None,
    chunk_size: ChunkSize = "auto",
    robust: bool = False,
) -> Uncertainty:
    """Observed information, standard errors and covariances of the parameters of a fitted model.

        I_o = −∂² ln P_Θ(ys) prior / ∂Θ² = −d s(Θ) / dΘ,     s(Θ) = ∂ E_{z ~ P_Θ'(z|y)} ln P_Θ(z, y) / ∂Θ at Θ' = Θ

    The score s is what EM's own E step gives, and so is its derivative (Oakes 1999), by forward differentiation.
    Errors of means, variances, probabilities follow by the delta method. Two or more hidden components have as many
    names as permutations; the errors are those of the one given.

    Args:
      model: as of `em_step`: an exact encoder, and families with `rebase` and `named`.
      params: a maximum, where EM has converged.
      ys: pytree of data with a leading axis N.
      prior, weights, chunk_size: those of `em_step`; a weight of 2 is two data.
      robust: the sandwich I_o⁻¹ (Σ w s_y s_yᵀ) I_o⁻¹ (Huber 1967), which holds where the model does not.

    Returns:
      `Uncertainty`. It costs P derivatives of an E step, and memory for [P, P] and 32 chunks.

    Raises:
      TypeError: the model has no exact E step, or a part of theta no closed-form M step.

    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model, params = mixture.model(1), mixture.init(jax.random.key(0), ys, 1)
    >>> found = optim.information(model, params, ys)  # of a mean: sqrt(variance / N)
    >>> found.errors.components["mean"].tolist(), found.estimates.components["covariance"].tolist()
    ([[0.5590]], [[[1.2500]]])
    """
    require_model(model)
    require_params(params)
    params = widened(params)
    task = problem(model, params, ys, prior, weights, chunk_size)
    at = coordinates(params)
    measured = task.statistics(params).families
    slope = score(at, task, params.psi)
    complete = _matrix(complete_information(at, task, measured, params.theta), at.vector)
    observed = _matrix(lambda v: -jax.jvp(slope, (at.vector,), (v,))[1], at.vector)

    free = ~ravel_pytree(at_bound(params.theta, measured, at))[0].astype(bool)
    curvature = jnp.where(free, jnp.diagonal(complete), 0)
    unit = jnp.where(curvature > 0, 1 / jnp.sqrt(jnp.where(curvature > 0, curvature, 1)), 0)
    inverse, blind = _inverse(observed, unit)
    hidden, _ = _inverse(complete, unit)
    spread = inverse @ _scatter(at, task, params) @ inverse if robust else inverse

    estimates, ravel_named = ravel_pytree(named(at.theta(at.vector)))
    jacobian = jax.jacfwd(lambda v: ravel_pytree(named(at.theta(v)))[0])(at.vector)
    rows = jnp.linalg.norm(jacobian * unit, axis=1)
    seen = jnp.linalg.norm((jacobian * unit) @ blind, axis=1)
    bound = jnp.linalg.norm(jnp.where(free, 0, jacobian), axis=1) >= 0.5 * jnp.linalg.norm(jacobian, axis=1)
    unidentified = (seen > 1e-4 * rows) & ~bound
    known = ~(unidentified | bound)
    jacobian = jnp.where(known[:, None], jacobian, 0)
    covariance = jacobian @ spread @ jacobian.T
    variance = jnp.diagonal(covariance)
    plain, least = (jnp.sum((jacobian @ a) * jacobian, 1) for a in (inverse, hidden))
    errors = jnp.where(unidentified, jnp.inf, jnp.sqrt(jnp.maximum(variance, 0)))
    missing = jnp.where(unidentified, 1, jnp.where(plain > 0, 1 - least / jnp.where(plain > 0, plain, 1), 0))
    missing = jnp.where(missing > 8 * jnp.finfo(missing.dtype).eps, missing, 0)

    held, blank = [jax.tree.map(lambda a: a > 0, ravel_named(a.astype(estimates.dtype))) for a in (bound, unidentified)]
    means, deviations, fractions = (ravel_named(a) for a in (estimates, errors, missing))
    return Uncertainty(means, deviations, fractions, held, blank, covariance, observed, complete)


def named(theta: PyTree) -> PyTree:
    """Theta with each family replaced by its parameters by name."""
    leaves, treedef = flatten(theta)
    out: list[dict] = []
    for leaf in leaves:
        if not is_family(leaf):
            out.append({})
        elif hasattr(leaf, "named"):
            out.append(leaf.named())
        else:
            raise TypeError(f"theta: {type(leaf).__name__} has no method named(); add it (see elbo.Family)")
    return treedef.unflatten(out)


def at_bound(theta: PyTree, statistics: PyTree, at: Coordinates) -> PyTree:
    """Which free coordinates stand at the end of their range, numbers 0 and 1 in the tree of the coordinates."""
    zeros = jax.tree.map(jnp.zeros_like, at.tree(at.vector))
    leaves, treedef = flatten(theta)
    out = []
    for leaf, s, zero in zip(leaves, treedef.flatten_up_to(statistics), treedef.flatten_up_to(zeros), strict=True):
        flags = leaf.at_bound(s) if s is not None and hasattr(leaf, "at_bound") else {}
        for field, flag in flags.items():
            old = getattr(zero, field)
            if old is not None:
                zero = replace(zero, **{field: jnp.broadcast_to(flag, old.shape).astype(old.dtype)})
        out.append(zero)
    return treedef.unflatten(out)


def _matrix(product: Callable[[jax.Array], jax.Array], vector: jax.Array) -> jax.Array:
    """The symmetric matrix [P, P] of a linear function, some columns at a time."""
    rows = jax.lax.map(product, jnp.eye(len(vector), dtype=vector.dtype), batch_size=min(COLUMNS, len(vector)))
    return (rows + rows.T) / 2


def _inverse(matrix: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of what of a matrix is positive, and a basis, in the given units, of the rest (0 in its place)."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix * unit[:, None] * unit)
    least = jnp.finfo(matrix.dtype).eps ** 0.6 * jnp.maximum(jnp.max(eigenvalues), 0)
    some = eigenvalues > least
    scaled = vectors * unit[:, None]
    inverse = (scaled * jnp.where(some, 1 / jnp.where(some, eigenvalues, 1), 0)) @ scaled.T
    # coordinates without a unit are not looked at
    return inverse, jnp.where(some, 0, vectors) * (unit > 0)[:, None]


def _scatter(at: Coordinates, task: Problem, params: Params) -> jax.Array:
    """Σ_y w_y s_y s_yᵀ of the scores of single data, [P, P]."""

    def one(y):
        ys = jax.tree.map(lambda a: a[None], y)
        return score(at, task._replace(ys=ys, weights=None, prior=None), params.psi)(at.vector)

    scores = jax.lax.map(one, task.ys, batch_size=COLUMNS)
    weights = jnp.ones(len(scores)) if task.weights is None else task.weights
    return (scores * weights[:, None]).T @ scores
