"""Expected sufficient statistics as a derivative of the objective, and the closed-form M step that reads them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import Automatic, Estimator, Model, Params
from elbo.extend import (
    ChunkSize,
    PyTree,
    axes_of,
    batch_length,
    expect_with_entropy,
    is_family,
    require_taps,
    terms,
    varying,
    widened,
    with_tap,
)

from ._chunks import check_weights, split, sum_over_chunks
from ._impossible import is_hidden
from ._priors import add_prior, flatten


class Statistics(NamedTuple):
    """Additive summary of a batch: all that an M step, and a report, need of it. Sums of these are those of the union.

    Attributes:
      families: Θ with each family replaced by Σ_y w E_q[T], in that family's own coordinates; None for other leaves,
        and for families whose statistics were not wanted.
      elbo: Σ w L(Ψ, Θ, y) over the feasible data, nats; −∞ where a sampled q draws what is impossible.
      weight: Σ w over the feasible data.
      dropped: number of data of non-zero weight that are not feasible; int.
    """

    families: PyTree
    elbo: jax.Array
    weight: jax.Array
    dropped: jax.Array


def expected_statistics(
    model: Model,
    params: Params,
    ys: PyTree,
    *,
    weights: jax.Array | None = None,
    key: jax.Array | None = None,
    estimator: Estimator | None = None,
    chunk_size: ChunkSize = None,
    moving: PyTree = None,
) -> Statistics:
    """Σ_y w_y E_q[T(z, y)] for every family of Θ, with q = P_Ψ(z|y): the gradient of E_q ln P_Θ in the families' taps.

    Args:
      model: the pair (log_joint, encoder).
      params: where; theta must hold at least one family for the answer to be of use.
      ys: pytree of data with a leading axis N.
      weights: [N], 1 by default.
      key: needed only if the estimator samples.
      estimator: how to take the expectation; `Automatic` by default.
      chunk_size: data in one chunk, all by default; "auto" for as many as the fast memory holds. The memory
        needed is that of one chunk; N need not be a multiple.
      moving: theta with None in place of families whose statistics are not wanted (their statistics are None); those
        may be read in any way, see `require_taps`. All are wanted by default.

    Returns:
      `Statistics`, whose sums over parts of the data equal those of the whole. On the devices of a `jax.shard_map` each
      sums its own part; `jax.lax.psum` of them is the whole.

    >>> import elbo
    >>> from elbo.models.families import Bernoulli
    >>> log_joint = lambda theta, z, y: jnp.dot(z, theta.log_prob(y))
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> coins = Bernoulli.create(jnp.array([[0.25], [0.75]]))
    >>> statistics = expected_statistics(model, Params.tied(coins), jnp.array([[1.0], [1.0], [0.0]]))
    >>> statistics.families.zeros[:, 0].tolist(), statistics.families.ones[:, 0].tolist()
    ([0.75, 0.25], [0.5, 1.5])
    >>> maximize(coins, statistics).probabilities()[:, 0].tolist()
    [0.4, 0.8571]
    """
    size = batch_length(ys)
    weights = check_weights(weights, size, params)
    leaves, treedef = flatten(params.theta)
    asked = leaves if moving is None else treedef.flatten_up_to(moving)
    tapped = tuple(is_family(leaf) and a is not None for leaf, a in zip(leaves, asked, strict=True))
    keys, axes = split(key, size), axes_of(params, ys, weights, key)
    wide = varying(widened(params), axes)
    linear = partial(_linear, model, estimator, tapped, axes)
    sums = sum_over_chunks(model, linear, wide, wide, ys, weights, keys, chunk_size)
    families = jax.tree.map(lambda s: jnp.where(sums.weight > 0, s, 0), sums.values)  # NaN if no datum is feasible
    hidden = is_hidden(model, estimator, params, ys, weights, keys, sums.dropped, chunk_size)
    return Statistics(families, jnp.where(hidden, -jnp.inf, sums.bound), sums.weight, sums.dropped)


def maximize(theta: PyTree, statistics: Statistics, *, prior: PyTree = None) -> PyTree:
    """The closed-form M step: each family of theta replaced by its argmax; other leaves stay.

    Args:
      theta: the parameters that the statistics were measured with.
      statistics: from `expected_statistics`, or a sum of such.
      prior: theta with each family replaced by a prior (`statistics(family)`, `log_prob(family)`) or None; None for
        none.
    """
    leaves, treedef = flatten(widened(theta))
    families = treedef.flatten_up_to(add_prior(widened(theta), statistics.families, prior))
    new = [leaf if s is None else leaf.maximize(s) for leaf, s in zip(leaves, families, strict=True)]
    return jax.tree.map(lambda a, old: a.astype(jnp.asarray(old).dtype), treedef.unflatten(new), theta)


def count_empty(theta: PyTree, families: PyTree) -> jax.Array:
    """How many components the statistics hold no data of, an int scalar."""
    leaves, treedef = flatten(theta)
    pairs = zip(leaves, treedef.flatten_up_to(families), strict=True)
    return sum(
        (jnp.sum(leaf.empty(s), dtype=jnp.int32) for leaf, s in pairs if s is not None), jnp.zeros((), jnp.int32)
    )


def count_floored(theta: PyTree) -> jax.Array:
    """How many scales of the families of theta stand at their floor, an int scalar."""
    floored = [leaf.floored() for leaf in flatten(theta)[0] if is_family(leaf) and hasattr(leaf, "floored")]
    return sum((jnp.sum(f, dtype=jnp.int32) for f in floored), jnp.zeros((), jnp.int32))


def _linear(model, estimator, tapped, axes, params, ys, keys):
    """L of each datum [N], and how to sum E_q[T] over data with weights."""
    leaves, treedef = flatten(params.theta)
    zeros = varying([leaf.zero_statistics() if t else None for leaf, t in zip(leaves, tapped, strict=True)], axes)

    checked: set[tuple] = set()  # the kinds of z that log_joint was checked with

    def insert(taps):
        return treedef.unflatten([a if t is None else with_tap(a, t) for a, t in zip(leaves, taps, strict=True)])

    def datum(taps, y, key):
        q = model.encoder(params.psi, y)

        def joint(z):
            kind = jax.tree.structure(z), *map(jax.typeof, jax.tree.leaves(z))
            if kind not in checked:
                require_taps(model.log_joint, params.theta, z, y, tapped)
                checked.add(kind)

            def tapped_terms(t):
                return terms(model.log_joint, insert(t), z, y)

            return tuple(zip(*jax.jvp(tapped_terms, (zeros,), (taps,)), strict=True))

        expected, entropy = expect_with_entropy(joint, q, estimator or Automatic(), key)
        values, statistics = zip(*expected, strict=True)
        return sum(statistics), sum(values) + entropy

    # E_q⟨taps, T⟩ is linear in the taps: its transpose, applied to the weights, sums E_q[T] over the data
    out, pull, bounds = jax.vjp(lambda taps: jax.vmap(datum, (None, 0, 0))(taps, ys, keys), zeros, has_aux=True)
    return bounds, lambda weights: treedef.unflatten(pull(weights.astype(out.dtype))[0])
