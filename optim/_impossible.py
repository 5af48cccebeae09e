"""What sampled bounds hide: a q that draws what is impossible has L = −∞, however well the possible draws do."""

import jax
import jax.numpy as jnp

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, axes_of, draws_the_impossible, may_draw_the_impossible, over_devices, varying


def is_hidden(
    model: Model,
    estimator: Estimator | None,
    params: Params,
    ys: PyTree,
    weights: jax.Array,
    keys: jax.Array | None,
    dropped: jax.Array,
    chunk_size: ChunkSize,
) -> jax.Array:
    """Whether the q of a datum draws what is impossible, so that no mean over the feasible data is a bound; a bool.

    Looked at only where data were dropped, for one of these may be such a datum, and only where L may be sampled and z
    be impossible.

    Args:
      model, estimator, params: of the rule.
      ys, weights, keys: the data, leading axis N, and a key for each, or None.
      dropped: how many data are not feasible.
      chunk_size: data in one chunk; None for all.
    """
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), ys)
    if keys is None or not may_draw_the_impossible(model, params, first):
        return jnp.array(False)

    def one(data):
        y, weight, key = data
        return draws_the_impossible(model, params, y, key, estimator) & (weight > 0) & model.usable(y)

    def look():
        some = 256 if chunk_size == "auto" else chunk_size

        def row(*data):
            return jnp.any(jax.vmap(one)(data) if some is None else jax.lax.map(one, data, batch_size=some))

        return varying(jnp.any(over_devices(row, ys, weights, keys)), axes)

    axes = axes_of(params, ys, weights, keys, dropped)
    return jax.lax.cond(dropped > 0, look, lambda: varying(jnp.array(False), axes))
