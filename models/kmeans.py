"""k-means with k-means++ seeding: where mixtures start."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elbo import PRECISION


class Clusters(NamedTuple):
    """Centres [K, D], and the index of the nearest centre of each point, int [N]."""

    centres: jax.Array
    assignments: jax.Array


@partial(jax.jit, static_argnames=("clusters", "iterations"))
def kmeans(key: jax.Array, xs: jax.Array, clusters: int, *, iterations: int = 10) -> Clusters:
    """k-means++ seeding (Arthur & Vassilvitskii 2007) and Lloyd iterations; pure, vmappable. O(N K D) an iteration.

    Args:
      key: PRNG key.
      xs: points, [N, D], floating point; a point with a NaN is never a centre and moves none.
      clusters: K. With fewer distinct points than K, some centres coincide.
      iterations: Lloyd iterations.

    >>> xs = jnp.array([[0.0], [0.1], [9.0], [9.1]])
    >>> sorted(kmeans(jax.random.key(0), xs, 2).centres[:, 0].tolist())
    [0.05, 9.05]
    """
    if xs.ndim != 2 or not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ValueError(f"xs: got {xs.dtype}{list(xs.shape)}, expected floating-point points [N, D]")
    good = jnp.all(jnp.isfinite(xs), -1)
    safe = jnp.where(good[:, None], xs, 0)
    shift = jnp.sum(safe, 0) / jnp.maximum(jnp.sum(good), 1)
    points = jnp.where(good[:, None], safe - shift, 0)
    centres = _seed(key, points, good, clusters)

    def lloyd(_, centres):
        member = jax.nn.one_hot(nearest(points, centres), clusters, dtype=xs.dtype) * good[:, None]
        count = jnp.sum(member, 0)[:, None]
        means = jnp.einsum("nk,nd->kd", member, points, precision=PRECISION) / jnp.maximum(count, 1)
        return jnp.where(count > 0, means, centres)

    centres = jax.lax.fori_loop(0, iterations, lloyd, centres)
    return Clusters(centres + shift, nearest(points, centres))


def nearest(points: jax.Array, centres: jax.Array) -> jax.Array:
    """Index of the centre [K, D] nearest to each point [N, D]; int [N]."""
    cross = jnp.einsum("nd,kd->nk", points, centres, precision=PRECISION)
    return jnp.argmin(jnp.sum(centres**2, -1) - 2 * cross, axis=-1)


def _seed(key, points, good, clusters):
    """Each next centre is drawn with probability proportional to the squared distance to the nearest one so far."""
    keys = jax.random.split(key, clusters)

    def draw(k, scores):
        total = jnp.sum(scores)
        logits = jnp.where(total > 0, jnp.log(scores), jnp.where(good, 0.0, -jnp.inf))
        return points[jax.random.categorical(k, logits)]

    def place(carry, k):
        distances = carry
        centre = draw(k, distances)
        return jnp.minimum(distances, jnp.where(good, jnp.sum((points - centre) ** 2, -1), 0)), centre

    first = draw(keys[0], good.astype(points.dtype))
    distances = jnp.where(good, jnp.sum((points - first) ** 2, -1), 0)
    _, rest = jax.lax.scan(place, distances, keys[1:])
    return jnp.concatenate([first[None], rest])
