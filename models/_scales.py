"""Location and spread of the columns of data, which neither far values nor the unit of a column can upset."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_ROWS = 4096  # the median of so many is known to 2 % of the spread
_QUARTILE = 0.6744897501960817  # of the standard normal distribution


class Scales(NamedTuple):
    """What is typical of each column.

    Attributes:
      location: the median, [D]; 0 where nothing is seen.
      spread: 1.48 times the median distance from it, the standard deviation of a Gaussian column, [D]; > 0.
    """

    location: jax.Array
    spread: jax.Array

    def floor(self, fraction: float = 1e-3) -> jax.Array:
        """The smallest standard deviation that a model should take: a fraction of the spread, [D].

        No less than the rounding of the data themselves, which says nothing of how they were drawn.
        """
        eps = jnp.finfo(self.spread.dtype).eps
        return jnp.maximum(fraction * self.spread, eps * abs(self.location))

    def within(self, xs: jax.Array) -> jax.Array:
        """Rows of data [N, D] so near that sums of their squares, in units of the spread, are numbers; bool [N]."""
        farthest = 1e-3 * jnp.sqrt(jnp.finfo(self.spread.dtype).max)
        return jnp.all(abs(xs - self.location) <= farthest * self.spread, -1)


def valid_weights(weights: jax.Array) -> jax.Array:
    """Weights with 0 for those that are none (NaN, infinite, negative): the rules drop such data too.

    >>> valid_weights(jnp.array([2.0, jnp.nan, -1.0, jnp.inf])).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    return jnp.where(jnp.isfinite(weights) & (weights > 0), weights, 0)


@jax.jit
def scales(xs: jax.Array, weights: jax.Array | None = None) -> Scales:
    """Median and spread of each column; both follow the column's shift and scale, and less than half of it moves them.

    Where half of a column is one number, the spread is that of what differs from it. A constant column has the size of
    its number for a spread, or 1 where that is 0. No product is formed: the answer is right wherever the data are
    numbers. Of more than 4096 rows, 4096 are used, spread evenly over those that count.

    Args:
      xs: data, [N, D], floating point; NaN and infinite entries are left out, one by one.
      weights: [N] >= 0, how often each row counts; 1 by default.

    >>> found = scales(jnp.array([[1.0, 8.0], [2.0, 8.0], [3.0, 8.0], [1e9, jnp.nan]]))
    >>> found.location.tolist(), found.spread.tolist()
    ([2.0, 8.0], [1.4826, 8.0])
    """
    if xs.ndim != 2 or not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ValueError(f"xs: got {xs.dtype}{list(xs.shape)}, expected floating-point data [N, D]")
    weights = jnp.ones(xs.shape[0]) if weights is None else jnp.asarray(weights)
    if weights.shape != xs.shape[:1]:
        raise ValueError(f"weights: got {list(weights.shape)}, expected {[xs.shape[0]]}, one for each row of xs")
    if not xs.shape[0]:
        return Scales(jnp.zeros(xs.shape[1], xs.dtype), jnp.ones(xs.shape[1], xs.dtype))
    # where a user's jit closes over the data they are constants: a compiler that sorts these itself takes minutes
    xs, weights = jax.lax.optimization_barrier((xs, weights))
    dtype = jnp.promote_types(xs.dtype, jnp.float32)
    weights = weights.astype(dtype) / jnp.maximum(jnp.max(weights), jnp.finfo(dtype).tiny)
    data, share = _sample(xs, weights)
    data = data.astype(dtype)
    location = _median(data, share)
    distance = abs(data - location)
    moved = jnp.where(distance > 0, share, 0)
    near = _median(distance, share)
    spread = jnp.where(near > 0, near, _median(distance, moved)) / _QUARTILE
    size = abs(location)
    constant = ~jnp.any(moved > 0, 0)
    spread = jnp.where(constant, jnp.where(size > 0, size, 1), jnp.minimum(spread, jnp.finfo(xs.dtype).max))
    return Scales(location.astype(xs.dtype), spread.astype(xs.dtype))


def _sample(xs: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A sample of each column, [M, D], and what its entries count, [M, D], 0 where not seen."""
    size = xs.shape[0]
    if size <= _ROWS:
        return xs, jnp.where(jnp.isfinite(xs), weights[:, None], 0)
    # multiples of the golden ratio: as even as a grid, and no period of the data is in step with them
    places = jnp.asarray(np.arange(1, _ROWS + 1) * 0.5 * (5**0.5 - 1) % 1, weights.dtype)

    def column(j):
        x = jax.lax.dynamic_index_in_dim(xs, j, 1, keepdims=False)
        share = jnp.where(jnp.isfinite(x), weights, 0)
        upto = jnp.cumsum(share)
        chosen = jnp.minimum(jnp.searchsorted(upto, places * upto[-1], side="right"), size - 1)
        return x[chosen], (share[chosen] > 0).astype(share.dtype)

    return tuple(a.T for a in jax.lax.map(column, jnp.arange(xs.shape[1])))


def _median(xs: jax.Array, weights: jax.Array) -> jax.Array:
    """The smallest numbers that half of the weight of a column does not exceed, [D]; 0 where it has none."""
    xs, weights = jax.lax.sort((jnp.where(weights > 0, xs, jnp.inf), weights), dimension=0, num_keys=1)
    upto = jnp.cumsum(weights, 0)
    middle = jnp.argmax(2 * upto >= upto[-1], 0)
    return jnp.where(upto[-1] > 0, jnp.take_along_axis(xs, middle[None], 0)[0], 0)
