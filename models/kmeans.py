"""k-means with k-means++ seeding: where mixtures start."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import PRECISION

from ._chunks import map_rows, sum_rows
from ._scales import Scales, scales, valid_weights

_FAR = 10.0  # spreads


class Clusters(NamedTuple):
    """Centres [K, D], and the index of the nearest centre of each point, int [N]."""

    centres: jax.Array
    assignments: jax.Array


@partial(jax.jit, static_argnames=("clusters", "iterations"))
def kmeans(
    key: jax.Array, xs: jax.Array, clusters: int, *, weights: jax.Array | None = None, iterations: int = 10
) -> Clusters:
    """k-means++ seeding (Arthur & Vassilvitskii 2007) and Lloyd iterations; pure, vmappable. O(N K D) an iteration.

    Distances are taken in units of each column's spread (`models.scales`), so that the unit of a column does not
    matter. For the seeding, those beyond 10 of them count as 10: a few far values do not take all the centres.

    Args:
      key: PRNG key.
      xs: points, [N, D], floating point; a point with a NaN or an infinity is never a centre and moves none.
      clusters: K. With fewer distinct points than K, some centres coincide.
      weights: [N] >= 0, 1 by default; a point of weight 0 is never a centre.
      iterations: Lloyd iterations.

    >>> xs = jnp.array([[0.0], [0.1], [9.0], [9.1]])
    >>> sorted(kmeans(jax.random.key(0), xs, 2).centres[:, 0].tolist())
    [0.05, 9.05]
    """
    if getattr(xs, "ndim", None) != 2 or not jnp.issubdtype(xs.dtype, jnp.floating):
        got = f"{xs.dtype}{list(xs.shape)}" if hasattr(xs, "ndim") else type(xs).__name__
        raise ValueError(f"xs: got {got}, expected floating-point points [N, D]")
    weights = jnp.ones(xs.shape[0], xs.dtype) if weights is None else jnp.asarray(weights, xs.dtype)
    weights = jnp.where(jnp.all(jnp.isfinite(xs), -1), valid_weights(weights), 0)
    weights = weights / jnp.maximum(jnp.max(weights), jnp.finfo(xs.dtype).tiny)
    units = scales(xs, weights)

    def standard(xs):  # clipped where the squares of distances are no numbers
        return jnp.clip(jnp.nan_to_num((xs - units.location) / units.spread), -1e15, 1e15)

    centres = _seed(key, xs, weights, standard, clusters)

    def lloyd(_, centres):
        def sums(counted, xs, weights):
            points = standard(xs)
            member = jax.nn.one_hot(nearest(points, centres), clusters, dtype=xs.dtype)
            member = member * (weights * counted)[:, None]
            return jnp.sum(member, 0)[:, None], jnp.einsum("nk,nd->kd", member, points, precision=PRECISION)

        count, total = sum_rows(sums, xs, weights)
        return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), centres)

    centres = jax.lax.fori_loop(0, iterations, lloyd, centres)
    assignments = map_rows(lambda xs: nearest(standard(xs), centres), xs)
    return Clusters(centres * units.spread + units.location, assignments)


def nearest(points: jax.Array, centres: jax.Array) -> jax.Array:
    """Index of the centre [K, D] nearest to each point [N, D]; int [N]."""
    cross = jnp.einsum("nd,kd->nk", points, centres, precision=PRECISION)
    return jnp.argmin(jnp.sum(centres**2, -1) - 2 * cross, axis=-1)


def memberships(assignments: jax.Array, near: jax.Array, clusters: int) -> jax.Array:
    """How much of each point a component starts with, [N, K]: its cluster and a little of everything.

    So none starts on a single point; near [N], see `nearness`, keeps the far ones from being seen by all.
    """
    member = jax.nn.one_hot(assignments, clusters, dtype=near.dtype)
    return 0.95 * member + 0.05 / clusters * near[:, None]


def nearness(xs: jax.Array, units: Scales) -> jax.Array:
    """1 for rows within ten spreads of the location, [N]; from there it falls, so that no square counts for more."""
    distance = jnp.max(abs(xs - units.location) / units.spread, -1)
    return jnp.square(_FAR / jnp.maximum(jnp.nan_to_num(distance, nan=_FAR), _FAR))


def _seed(key, xs, weights, standard, clusters):
    """Each next centre is drawn with probability proportional to the squared distance to the nearest one so far."""
    keys = jax.random.split(key, clusters)
    farthest = _FAR**2 * xs.shape[1]

    def draw(k, scores):
        total = jnp.sum(scores)
        logits = jnp.where(total > 0, jnp.log(scores), jnp.log(weights))
        return standard(xs[jax.random.categorical(k, logits)])

    def to(centre, distances):
        here = jnp.sum((standard(xs) - centre) ** 2, -1)
        return jnp.minimum(distances, jnp.minimum(here, farthest) * weights)

    def place(distances, k):
        centre = draw(k, distances)
        return to(centre, distances), centre

    first = draw(keys[0], weights)
    _, rest = jax.lax.scan(place, to(first, farthest * weights), keys[1:])
    return jnp.concatenate([first[None], rest])
