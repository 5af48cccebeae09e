"""The exact E step, and the expected sufficient statistics: a derivative of the objective at its posterior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import Automatic, Estimator, Model, Params
from elbo.extend import (
    ChunkSize,
    PyTree,
    anywhere,
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

from ._chunks import sum_over_chunks
from ._data import check_weights, split
from ._impossible import is_hidden
from ._priors import flatten


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


def exact_e_step(model: Model, params: Params) -> PyTree:
    """argmax over Ψ of L at Θ, as the model's encoder gives it; raises if the encoder has no exact E step."""
    step = getattr(model.encoder, "e_step", None)
    if step is None:
        raise TypeError(
            f"model.encoder: {model.encoder!r} has no exact E step (no method `e_step(theta, psi)`). Make it by "
            "elbo.exact(log_joint, structure), or use a rule with a gradient E step: vem_step or vae_step"
        )
    return step(params.theta, params.psi)


@anywhere
@jax.named_scope("e_step")
def expected_statistics(
    model: Model,
    params: Params,
    ys: PyTree,
    *,
    weights: jax.Array | None = None,
    key: jax.Array | None = None,
    estimator: Estimator | None = None,
    chunk_size: ChunkSize = "auto",
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
      chunk_size: data in one chunk, as in `em_step`. The memory needed is that of one chunk; N need not be a multiple.
      moving: theta with None in place of families whose statistics are not wanted (their statistics are None); those
        may be read in any way, see `require_taps`. All are wanted by default.

    Returns:
      `Statistics`, whose sums over parts of the data equal those of the whole. On the devices of a `jax.shard_map` each
      sums its own part; `jax.lax.psum` of them is the whole.

    >>> import elbo
    >>> from elbo import optim
    >>> from elbo.models.families import Bernoulli
    >>> log_joint = lambda theta, z, y: jnp.dot(z, theta.log_prob(y))
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> coins = Bernoulli.create(jnp.array([[0.25], [0.75]]))
    >>> statistics = expected_statistics(model, Params.tied(coins), jnp.array([[1.0], [1.0], [0.0]]))
    >>> statistics.families.zeros[:, 0].tolist(), statistics.families.ones[:, 0].tolist()
    ([0.75, 0.25], [0.5, 1.5])
    >>> optim.maximize(coins, statistics).probabilities()[:, 0].tolist()
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


def _linear(model, estimator, tapped, axes, params, ys, keys):
    """L of each datum [N], and how to sum E_q[T] over data with weights."""
    leaves, treedef = flatten(params.theta)
    zeros = varying([leaf.zero_statistics() if t else None for leaf, t in zip(leaves, tapped, strict=True)], axes)

    checked: set[tuple] = set()  # the kinds of z that log_joint was checked with

    def insert(taps):
        return treedef.unflatten([a if t is None else with_tap(a, t) for a, t in zip(leaves, taps, strict=True)])

    def datum(taps, y, key):
        q = model.posterior(params, y)

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
