"""Gaussians with a full, tied or spherical covariance, kept as the root of their precision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from elbo import PRECISION
from elbo.extend import density, tapped, told
from elbo.linalg import cholesky, count_above, limit, matmul, triangular_inverse

from ._checks import (
    at_floor,
    at_least,
    check_event,
    check_names,
    check_shape,
    divide,
    expand,
    floating,
    require_positive,
    rounding_of,
    update_log_scale,
)
from ._multivariate_statistics import CONTRACTS, WEIGHTED, Statistics
from ._precision_root import store, triangle, update_root

_PARAMETERS = {"mean": "mean", "covariance": "root"}
Covariance = Literal["full", "tied", "spherical"]


_UNKNOWN_TYPE = "covariance_type: got {!r}, expected one of {}; a diagonal covariance is the family Normal"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultivariateNormal:
    """x ~ N(mean, Σ), with Σ⁻¹ = Wᵀ W and W lower triangular; every value of the parameters is valid.

    A datum with a `weight` has the covariance Σ / weight, as in `Normal`.

    The M step works in the coordinates u = W (x − mean) of the current parameters, never with E[x²] − mean².

    Args:
      mean: [*batch, D].
      root: the root W of the precision with the logarithm of its diagonal in place of the diagonal (what is above it is
        not read), [*batch, D, D]; tied: one for the whole batch, [D, D]; spherical: ln W_dd alone, [*batch].
      floor: smallest standard deviation in any direction, Σ ⪰ diag(floor²), whatever the order of the columns; [D] or a
        scalar, in data units; 0 for none. `maximize` gives the maximum under this constraint, and every rule ends its
        step with `project`. A spherical covariance has the largest of the floors, as a part of its density.
      covariance_type: "full", "tied" or "spherical".
      known: which of "mean" and "covariance" are known, and so moved by nothing, as in `LinearGaussian`.

    >>> f = MultivariateNormal.create(jnp.zeros(2), 4 * jnp.eye(2))
    >>> f.log_prob(jnp.array([2.0, 0.0])).tolist(), f.covariance().tolist()  # -ln 2π - ln 4 - 1/2
    (-3.7242, [[4.0, 0.0], [0.0, 4.0]])
    """

    mean: jax.Array
    root: jax.Array
    floor: jax.Array
    covariance_type: Covariance = field(default="full", metadata={"static": True})
    tap: Any = None
    known: tuple[str, ...] = field(default=(), metadata={"static": True})

    @classmethod
    def create(
        cls,
        mean: jax.Array,
        covariance: jax.Array,
        *,
        covariance_type: Covariance = "full",
        floor: jax.Array | float = 0.0,
        known: Sequence[str] = (),
    ) -> "MultivariateNormal":
        """The family with the given moments.

        Where a covariance is not positive definite, there is no density: an error, or a root of NaN where values are
        not known yet (under jit).

        Args:
          mean: [*batch, D].
          covariance: full [*batch, D, D], tied [D, D], spherical: variances [*batch].
          covariance_type: "full", "tied" or "spherical".
          floor, known: see the class.
        """
        mean, covariance = floating("mean", mean, 1), floating("covariance", covariance, 0)
        batch, size = mean.shape[:-1], mean.shape[-1]
        shapes = {"full": (*batch, size, size), "tied": (size, size), "spherical": batch}
        if covariance_type not in shapes:
            raise ValueError(_UNKNOWN_TYPE.format(covariance_type, sorted(shapes)))
        if covariance.shape != shapes[covariance_type]:
            raise ValueError(
                f"covariance: got {list(covariance.shape)}, expected {list(shapes[covariance_type])} for mean "
                f"{list(mean.shape)} and covariance_type={covariance_type!r}"
            )
        floor = jnp.asarray(floor, mean.dtype)
        if covariance_type == "spherical":
            root = -0.5 * jnp.log(jnp.where(covariance > 0, covariance, jnp.nan))
        else:
            root = store(triangular_inverse(cholesky(covariance)))
        require_positive("covariance", root, "a singular one has no density: add a small variance", log=True)
        return cls(mean, root, floor, covariance_type, known=check_names("known", known, _PARAMETERS))

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of the fields that no gradient moves."""
        return ("floor", *(_PARAMETERS[name] for name in self.known))

    @classmethod
    def of_scale(
        cls,
        mean: jax.Array,
        scale: jax.Array,
        *,
        covariance_type: Covariance = "full",
        floor: jax.Array | float = 0.0,
    ) -> "MultivariateNormal":
        """The family without correlations, from standard deviations whose squares need not be numbers.

        Args:
          mean: [*batch, D].
          scale: full [*batch, D], tied [D], spherical [*batch]; NaN where not positive.
          covariance_type, floor: see the class.

        >>> f = MultivariateNormal.of_scale(jnp.zeros(2), jnp.array([1e-30, 1e30]))
        >>> jnp.round(jnp.log10(f.scale())).tolist()
        [-30.0, 30.0]
        """
        mean = floating("mean", mean, 1)
        shapes = {"full": mean.shape, "tied": mean.shape[-1:], "spherical": mean.shape[:-1]}
        if covariance_type not in shapes:
            raise ValueError(_UNKNOWN_TYPE.format(covariance_type, sorted(shapes)))
        scale = check_shape("scale", scale, shapes[covariance_type])
        root = -jnp.log(jnp.where(scale > 0, scale, jnp.nan))
        if covariance_type != "spherical":
            root = root[..., None] * jnp.eye(mean.shape[-1], dtype=mean.dtype)
        return cls(mean, root, jnp.asarray(floor, mean.dtype), covariance_type)

    @property
    def event_size(self) -> int:
        """D."""
        return self.mean.shape[-1]

    def __repr__(self) -> str:
        return told(self, mean=lambda: self.mean, covariance=self.covariance)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of components."""
        return self.mean.shape[:-1]

    def whitener(self) -> jax.Array:
        """W with Σ⁻¹ = Wᵀ W, [*batch, D, D] (tied: [D, D]), lower triangular."""
        if self.covariance_type == "spherical":
            return jnp.exp(self._root())[..., None, None] * jnp.eye(self.event_size, dtype=self.mean.dtype)
        return triangle(self.root)

    def covariance(self) -> jax.Array:
        """Σ, [*batch, D, D] (tied: [D, D])."""
        inverse = triangular_inverse(self.whitener())
        return matmul(inverse, jnp.swapaxes(inverse, -1, -2))

    def scale(self) -> jax.Array:
        """Standard deviations of each x_d, [*batch, D] (tied: [D])."""
        if self.covariance_type == "spherical":
            return jnp.broadcast_to(jnp.exp(-self._root())[..., None], self.mean.shape)
        inverse = triangular_inverse(self.whitener())
        largest = jnp.max(abs(inverse), -1)  # their squares need not be numbers
        return largest * jnp.sqrt(jnp.sum((inverse / largest[..., None]) ** 2, -1))

    def floored(self) -> jax.Array:
        """Which standard deviations along main axes stand at the floor, bool like `scale()`."""
        if self.covariance_type == "spherical":
            return at_floor(-self.root, self._floor())
        count = count_above(self.whitener() * self._floor()[..., None, :], 0.999)
        return jnp.arange(self.event_size) < count[..., None]

    def project(self) -> "MultivariateNormal":
        """The family with every standard deviation below the floor raised to it; itself where none is."""
        if self.covariance_type == "spherical":
            root = self._root()
        else:
            whitener, floor = self.whitener(), jax.lax.stop_gradient(self._floor())
            root = store(limit(whitener, floor))
            below = jnp.sum((whitener * floor[..., None, :]) ** 2, (-2, -1)) > 1
            root = jnp.where(expand(below, 2), root, self.root)
        return replace(self, root=self.root if "covariance" in self.known else root)

    @density
    def log_prob(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """ln N(x; mean, Σ / weight) of one datum x [D] under each component, [*batch], nats. O(D²) a component.

        Args:
          x: [D].
          weight: precision of this datum relative to the family's, a scalar > 0; 1 by default.

        >>> f = MultivariateNormal.create(jnp.zeros(2), 4 * jnp.eye(2))
        >>> f.log_prob(jnp.array([2.0, 0.0]), weight=4.0).tolist()  # covariance I: -ln 2π - 2
        -3.8379
        """
        check_event("x", x, (self.event_size,))
        u = self._whiten(x)
        constant, square = self.event_size * math.log(2 * math.pi), jnp.sum(jnp.square(u), -1)
        contract = CONTRACTS[self.covariance_type]
        if weight is None:
            return tapped(contract, self._log_det() - 0.5 * (square + constant), self.tap, u)
        check_event("weight", weight, ())
        value = self._log_det() - 0.5 * (weight * square - self.event_size * jnp.log(weight) + constant)
        return tapped(WEIGHTED[self.covariance_type], value, self.tap, weight, u)

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw per component, [*batch, D]."""
        eta = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + matmul(triangular_inverse(self.whitener()), eta[..., None])[..., 0]

    def zero_statistics(self) -> Statistics:
        """Statistics of no data."""
        zeros = jnp.zeros(self.batch_shape, self.mean.dtype)
        return Statistics(zeros, jnp.zeros_like(self.mean), jnp.zeros_like(self.root), zeros)

    def free_parameters(self) -> int:
        """How many free numbers the batch of components has."""
        triangle = self.event_size * (self.event_size + 1) // 2
        covariances = self.root.size if self.covariance_type == "spherical" else self.root.size // self.event_size**2
        free = {"mean": self.mean.size, "covariance": covariances * (self.covariance_type == "spherical" or triangle)}
        return sum(count for name, count in free.items() if name not in self.known)

    def named(self) -> dict[str, jax.Array]:
        """The parameters by their usual names."""
        return {"mean": self.mean, "covariance": self.covariance()}

    def at_bound(self, statistics: Statistics) -> dict[str, jax.Array]:
        """Which numbers stand at the end of their range, by field."""
        return {"root": self._floored_roots()}

    def empty(self, statistics: Statistics) -> jax.Array:
        """Components without data, bool [*batch]."""
        return statistics.count <= 0

    def log_likelihood(self, statistics: Statistics) -> jax.Array:
        """Σ ln N(x; mean, Σ) of the data behind the statistics, a scalar in nats."""
        second = statistics.second
        squares = jnp.sum(second if self.covariance_type == "spherical" else jnp.trace(second, axis1=-2, axis2=-1))
        constant = jnp.sum(statistics.scale_count * (self._log_det() - 0.5 * self.event_size * math.log(2 * math.pi)))
        return constant - 0.5 * squares

    def maximize(self, statistics: Statistics) -> "MultivariateNormal":
        """Means and covariances of the data, no standard deviation below the floor. O(D³) a component."""
        count, first, second, scale_count = statistics
        empty = self.empty(statistics)
        shift = divide(first, count[..., None]) * ("mean" not in self.known)
        inverse = triangular_inverse(self.whitener())
        mean = self.mean + matmul(inverse, shift[..., None])[..., 0]
        spread = matmul(first[..., :, None], shift[..., None, :])
        if self.covariance_type == "spherical":
            total = self.event_size * scale_count
            residual = second - jnp.sum(first * shift, -1)
            root = self._root()
            terms = jnp.mean(rounding_of(self.mean * jnp.exp(root)[..., None]), -1)
            root = -update_log_scale(-root, residual, second, total, self._floor(), terms)
            no_scale = scale_count <= 0
        else:
            total = scale_count
            if self.covariance_type == "tied":
                spread, total = jnp.sum(spread, tuple(range(len(self.batch_shape)))), jnp.sum(scale_count)
            covariance = divide(second - spread, total[..., None, None])
            moment = divide(jnp.diagonal(second, axis1=-2, axis2=-1), total[..., None])
            root = update_root(self.root, covariance, self._floor(), moment, self._terms(inverse))
            no_scale = expand(total <= 0, 2)
        new = {"mean": jnp.where(empty[..., None], self.mean, mean), "covariance": jnp.where(no_scale, self.root, root)}
        moved: Any = {_PARAMETERS[name]: a for name, a in new.items() if name not in self.known}
        return replace(self, tap=None, **moved)

    def statistics_of(self, reference: "MultivariateNormal") -> Statistics:
        """E T(x) of one datum x ~ reference, in this family's coordinates; what pseudo-data are made of."""
        whitener = self.whitener()
        first = matmul(whitener, (reference.mean - self.mean)[..., None])[..., 0]
        ones = jnp.ones(self.batch_shape, self.mean.dtype)
        return Statistics(ones, first, self._second(whitener, reference, first), ones)

    def scale_statistics_of(self, reference: "MultivariateNormal") -> Statistics:
        """The same for a datum of which only the spread around the family's own mean counts."""
        zeros = jnp.zeros_like(self.mean)
        ones = jnp.ones(self.batch_shape, self.mean.dtype)
        return Statistics(zeros[..., 0], zeros, self._second(self.whitener(), reference, zeros), ones)

    def expected(self, statistics: Statistics) -> Statistics:
        """The statistics expected of as many data drawn from this family."""
        count, first, _, scale_count = statistics
        identity = jnp.eye(self.event_size, dtype=first.dtype)
        second = {
            "full": scale_count[..., None, None] * identity,
            "tied": jnp.sum(scale_count) * identity,
            "spherical": self.event_size * scale_count,
        }[self.covariance_type]
        return Statistics(count, jnp.zeros_like(first), second, scale_count)

    def _floored_roots(self):
        # a floor binds along main axes, so that no entry of a root is free where one is
        if self.covariance_type == "spherical":
            return self.floored()
        return jnp.broadcast_to(jnp.any(self.floored(), -1)[..., None, None], self.root.shape)

    def rebase(self, statistics: Statistics, old: "MultivariateNormal") -> Statistics:
        """What this family would have measured where `old` measured the statistics of data (not of a prior)."""
        count, first, second, scale_count = statistics
        # u = factor · old u + shift
        whitener = self.whitener()
        factor = matmul(whitener, triangular_inverse(old.whitener()))
        shift = matmul(whitener, (old.mean - self.mean)[..., None])[..., 0]
        first, constant = matmul(factor, first[..., None])[..., 0], count[..., None] * shift
        if self.covariance_type == "spherical":
            ratio = jnp.exp(self._root() - old._root())
            second = ratio**2 * second + jnp.sum((2 * first + constant) * shift, -1)
            return Statistics(count, first + constant, second, scale_count)
        extra = first[..., :, None] * shift[..., None, :]
        extra = extra + jnp.swapaxes(extra, -1, -2) + constant[..., :, None] * shift[..., None, :]
        if self.covariance_type == "tied":
            extra = jnp.sum(extra, tuple(range(len(self.batch_shape))))
        second = matmul(matmul(factor, second), jnp.swapaxes(factor, -1, -2)) + extra
        return Statistics(count, first + constant, second, scale_count)

    def _second(self, whitener, reference, first):
        factor = matmul(whitener, triangular_inverse(reference.whitener()))
        second = matmul(factor, jnp.swapaxes(factor, -1, -2)) + first[..., :, None] * first[..., None, :]
        if self.covariance_type == "spherical":
            return jnp.trace(second, axis1=-2, axis2=-1)
        if self.covariance_type == "tied":
            second = jnp.broadcast_to(second, (*self.batch_shape, *second.shape[-2:]))
            return jnp.sum(second, tuple(range(len(self.batch_shape))))
        return second

    def _whiten(self, x):
        if self.covariance_type == "spherical":
            return (x - self.mean) * jnp.exp(self._root())[..., None]
        # one matrix product for all components, about a common centre near the data
        centre = jax.lax.stop_gradient(self._centre())
        whitener = self.whitener()
        offset = matmul(whitener, (centre - self.mean)[..., None])
        if self.covariance_type == "tied":
            return jnp.einsum("ij,j->i", whitener, x - centre, precision=PRECISION) + offset[..., 0]
        affine = jnp.concatenate([whitener, offset], -1)
        point = jnp.append(x - centre, jnp.ones((), x.dtype))
        return jax.lax.dot_general(affine, point, (((affine.ndim - 1,), (0,)), ((), ())), precision=PRECISION)

    def _centre(self):
        """Of what lies amid the means, what is nearest to 0: no mean is further from it than the size of its own data.

        So products about it lose no more digits of a component than its data have lost, however far the others are.
        """
        axes = tuple(range(len(self.batch_shape)))
        return jnp.clip(0, jnp.min(self.mean, axes), jnp.max(self.mean, axes))

    def _terms(self, inverse):
        """Mean squares [*batch, D] (tied [D]) of what residuals u = W (x − centre) + W (centre − mean) are sums of."""
        whitener = self.whitener()
        unit = jnp.max(abs(inverse), -1)  # of each column: its squares need not be numbers
        offset = (self.mean - self._centre()) / unit
        inputs = jnp.sum((inverse / unit[..., None]) ** 2, -1) + offset**2 + rounding_of(self.mean / unit)
        if self.covariance_type == "tied":
            inputs = jnp.mean(inputs, tuple(range(len(self.batch_shape))))
        return matmul((whitener * unit[..., None, :]) ** 2, inputs[..., None])[..., 0]

    def _floor(self):
        """[*batch, D] (tied [D]); spherical: the largest."""
        if self.covariance_type == "spherical":
            return jnp.max(self.floor, -1) if jnp.ndim(self.floor) else self.floor
        floor = jnp.broadcast_to(self.floor, self.mean.shape)
        if self.covariance_type == "tied":
            return jnp.max(floor, tuple(range(len(self.batch_shape))))
        return floor

    def _root(self):
        """The root of a spherical covariance, with its floor."""
        return -at_least(-self.root, self._floor())

    def _log_det(self):
        if self.covariance_type == "spherical":
            return self.event_size * self._root()
        return jnp.trace(self.root, axis1=-2, axis2=-1)
