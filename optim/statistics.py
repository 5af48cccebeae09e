"""Expected sufficient statistics as a derivative of the objective, and the closed-form M step that reads them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elbo import Model, Params, is_family
from elbo.estimators import Automatic, Estimator, expect_terms
from elbo.exact import terms
from elbo.family import with_tap
from elbo.numerics import is_feasible
from elbo.objective import batch_length

from .sharing import share

Tree = Any


class Statistics(NamedTuple):
    """Additive summary of a batch: all that an M step, and a report, need of it. Sums of these are those of the union.

    Attributes:
      families: Θ with each family replaced by Σ_y w E_q[T], in that family's own coordinates; None for other leaves.
      elbo: Σ w L(Ψ, Θ, y) over the feasible data, nats.
      weight: Σ w over the feasible data.
      dropped: number of data of non-zero weight that are not feasible; int.
    """

    families: Tree
    elbo: jax.Array
    weight: jax.Array
    dropped: jax.Array


def expected_statistics(
    model: Model,
    params: Params,
    ys: Tree,
    *,
    weights: jax.Array | None = None,
    key: jax.Array | None = None,
    estimator: Estimator | None = None,
    chunk_size: int | None = None,
) -> Statistics:
    """Σ_y w_y E_q[T(z, y)] for every family of Θ, with q = P_Ψ(z|y): the gradient of E_q ln P_Θ in the families' taps.

    Args:
      model: the pair (log_joint, encoder).
      params: where; theta must hold at least one family for the answer to be of use.
      ys: pytree of data with a leading axis N.
      weights: [N], 1 by default.
      key: needed only if the estimator samples.
      estimator: how to take the expectation; `Automatic` by default.
      chunk_size: data looked at in one go. The memory needed is that of one chunk; N need not be a multiple.

    Returns:
      `Statistics`, whose sums over parts of the data equal those of the whole.
    """
    size = batch_length(ys)
    weights = check_weights(weights, size, params)
    keys = None if key is None else jax.random.split(key, size)
    summarize = share(partial(_summarize, model, estimator))
    if chunk_size is None or chunk_size >= size:
        return summarize(params, ys, weights, keys)
    if chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}, expected a positive number of data, or None for all at once")

    def chunk(total, start):
        # the last chunk overlaps the one before it, and counts those data with weight 0: no padded copy of ys
        begin = jnp.minimum(start, size - chunk_size)
        part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, chunk_size), (ys, weights, keys))
        fresh = begin + jnp.arange(chunk_size) >= start
        summary = summarize(params, part[0], jnp.where(fresh, part[1], 0), part[2])
        return jax.tree.map(jnp.add, total, summary), None

    zero = jax.eval_shape(summarize, params, ys, weights, keys)
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), zero)
    return jax.lax.scan(chunk, zero, jnp.arange(0, size, chunk_size))[0]


def maximize(theta: Tree, statistics: Statistics, *, prior: Tree = None) -> Tree:
    """The closed-form M step: each family of theta replaced by its argmax; other leaves stay.

    Args:
      theta: the parameters that the statistics were measured with.
      statistics: from `expected_statistics`, or a sum of such.
      prior: theta with each family replaced by a prior (`statistics(family)`, `log_prob(family)`) or None; None for none.
    """
    leaves, treedef = flatten(theta)
    families = treedef.flatten_up_to(add_prior(theta, statistics.families, prior))
    new = [leaf.maximize(s) if is_family(leaf) else leaf for leaf, s in zip(leaves, families, strict=True)]
    return treedef.unflatten(new)


def count_empty(theta: Tree, families: Tree) -> jax.Array:
    """How many components the statistics hold no data of, an int scalar."""
    leaves, treedef = flatten(theta)
    pairs = zip(leaves, treedef.flatten_up_to(families), strict=True)
    return sum((jnp.sum(leaf.empty(s), dtype=jnp.int32) for leaf, s in pairs if is_family(leaf)), jnp.zeros((), jnp.int32))


def add_prior(theta: Tree, families: Tree, prior: Tree) -> Tree:
    """The families' statistics with those of the priors' imaginary data added."""
    leaves, treedef = flatten(theta)
    new = [
        s if p is None else jax.tree.map(jnp.add, s, p.statistics(leaf))
        for leaf, s, p in zip(leaves, treedef.flatten_up_to(families), match_prior(theta, prior), strict=True)
    ]
    return treedef.unflatten(new)


def log_prior(theta: Tree, prior: Tree) -> jax.Array | float:
    """Σ ln prior of the families of theta, nats, up to a constant; 0 without priors."""
    pairs = zip(flatten(theta)[0], match_prior(theta, prior), strict=True)
    return sum(p.log_prob(leaf) for leaf, p in pairs if p is not None)


def flatten(theta: Tree) -> tuple[list, Any]:
    """The leaves of theta, where a family is one leaf, and the tree they hang in."""
    return jax.tree.flatten(theta, is_leaf=is_family)


def match_prior(theta: Tree, prior: Tree) -> list:
    """The prior of each leaf of theta, or None; raises where the trees or the kinds do not match."""
    leaves, treedef = flatten(theta)
    if prior is None:
        return [None] * len(leaves)
    try:
        priors = treedef.flatten_up_to(prior)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"prior: its tree does not match theta's. Expected theta with each family replaced by a prior or None, that is "
            f"{treedef}; got {jax.tree.structure(prior, is_leaf=lambda p: hasattr(p, 'log_prob'))}"
        ) from error
    for leaf, p in zip(leaves, priors, strict=True):
        if p is not None and not (is_family(leaf) and hasattr(p, "statistics") and hasattr(p, "log_prob")):
            raise TypeError(
                f"prior: got {type(p).__name__} for a {type(leaf).__name__}; expected an object with statistics(family) and "
                "log_prob(family), such as PseudoData, where theta has a family, and None elsewhere"
            )
    return priors


def screen(model: Model, ys: Tree, weights: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
    """Data that cannot be used, or have weight 0, replaced by one that can, with weight 0; and how many could not.

    NaN times weight 0 is NaN: junk must not be looked at, not even with weight 0.
    """
    usable = jax.vmap(model.usable)(ys)
    good = usable & (weights > 0)
    first = jnp.argmax(good)

    def replace(leaf):
        stand_in = leaf[first]
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            stand_in = jnp.where(jnp.isfinite(stand_in), stand_in, 0)
        return jnp.where(good.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, stand_in)

    return jax.tree.map(replace, ys), jnp.where(good, weights, 0), jnp.sum(~usable & (weights > 0), dtype=jnp.int32)


def check_weights(weights: jax.Array | None, size: int, params: Params) -> jax.Array:
    """Weights [N] in the parameters' floating-point type, 1 by default; raises on another shape."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    dtype = jnp.result_type(*dtypes) if dtypes else float
    if weights is None:
        return jnp.ones(size, dtype)
    if jnp.shape(weights) != (size,):
        raise ValueError(f"weights: got shape {list(jnp.shape(weights))}, expected [{size}], one for each datum of ys")
    return jnp.asarray(weights, dtype)


def _summarize(model, estimator, params, ys, weights, keys) -> Statistics:
    ys, weights, unusable = screen(model, ys, weights)
    leaves, treedef = flatten(params.theta)
    zeros = [leaf.zero_statistics() if is_family(leaf) else None for leaf in leaves]

    def insert(taps):
        return treedef.unflatten([a if t is None else with_tap(a, t) for a, t in zip(leaves, taps, strict=True)])

    def datum(taps, y, key):
        q = model.encoder(params.psi, y)

        def joint(z):
            def tapped_terms(t):
                return terms(model.log_joint, insert(t), z, y)

            return tuple(zip(*jax.jvp(tapped_terms, (zeros,), (taps,)), strict=True))

        values, statistics = zip(*expect_terms(joint, q, estimator or Automatic(), key), strict=True)
        return sum(statistics), sum(values) + q.entropy()

    # E_q⟨taps, T⟩ is linear in the taps: its transpose, applied to the weights, sums E_q[T] over the data
    _, pull, bounds = jax.vjp(lambda taps: jax.vmap(datum, (None, 0, 0))(taps, ys, keys), zeros, has_aux=True)
    feasible = is_feasible(bounds)
    used = jnp.where(feasible, weights, 0)
    (families,) = pull(used)
    return Statistics(
        treedef.unflatten(families),
        jnp.sum(used * jnp.where(feasible, bounds, 0)),
        jnp.sum(used),
        unusable + jnp.sum(~feasible & (weights > 0), dtype=jnp.int32),
    )
