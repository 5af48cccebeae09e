"""Linear regressions with Gaussian noise, on inputs or on latent vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elbo import PRECISION
from elbo.extend import density, tapped, told
from elbo.linalg import ldl, matmul, triangular_inverse

from ._checks import (
    at_floor,
    at_least,
    check_event,
    check_names,
    check_shape,
    divide,
    floating,
    require_positive,
    update_log_scale,
    weighted,
)


class Statistics(NamedTuple):
    """Sums over data of products of x̃ = (1, x − centre) and of the whitened residual r = (y − mean(x)) / scale.

    Attributes:
      moment: Σ weight x̃ x̃ᵀ, [*batch, P+1, P+1]; all weights are 1 where data have none.
      cross: Σ weight x̃ rᵀ, [*batch, P+1, D].
      second: Σ weight r², [*batch, D]; spherical noise: Σ weight |r|², [*batch].
      scale_count: Σ 1 for the scale, [*batch]; differs from moment[..., 0, 0] where data have weights, or a prior
        speaks of one of the two.
    """

    moment: jax.Array
    cross: jax.Array
    second: jax.Array
    scale_count: jax.Array


_PARAMETERS = {"weights": "weights", "bias": "bias", "scale": "log_scale"}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearGaussian:
    """y ~ N(weights (x − centre) + bias, noise), where x is an input or a latent vector (log_prob is quadratic in x).

    A datum with a `weight` has the noise's variances divided by it, as in `Normal`: weighted least squares.

    A regressor that is constant in the data, or a combination of those before it, keeps its weights in `maximize`.

    Args:
      weights: [*batch, D, P].
      bias: [*batch, D].
      log_scale: ln of the noise's standard deviations, [*batch, D]; spherical noise: one for all of y, [*batch]. One
        below the floor counts as the floor, which is part of the density, as in `Normal`.
      centre: [P], moved by nothing; a point amid the x. From one much further away than their spread, digits are lost.
      floor: smallest standard deviation of the noise, [D] or a scalar, in units of y; 0 for none.
      known: which of "weights", "bias" and "scale" are known, and so moved by nothing: `maximize` estimates the others
        given these, no gradient moves them, and they are no free parameters.

    >>> f = LinearGaussian.create(jnp.array([[1.0, 2.0]]), jnp.array([3.0]), jnp.array([1.0]))
    >>> f.mean(jnp.array([1.0, 1.0])).tolist(), f.log_prob(jnp.array([6.0]), jnp.array([1.0, 1.0])).tolist()
    ([6.0], -0.9189)
    """

    weights: jax.Array
    bias: jax.Array
    log_scale: jax.Array
    centre: jax.Array
    floor: jax.Array
    tap: Any = None
    known: tuple[str, ...] = field(default=(), metadata={"static": True})

    @classmethod
    def create(
        cls,
        weights: jax.Array,
        bias: jax.Array,
        scale: jax.Array,
        *,
        centre: jax.Array | None = None,
        floor: jax.Array | float = 0.0,
        known: Sequence[str] = (),
    ) -> "LinearGaussian":
        """The family with the given regression and standard deviations of the noise.

        Where a scale is not positive, there is no density: an error, or NaN where values are not known yet (under jit).

        Args:
          weights: [*batch, D, P].
          bias: [*batch, D].
          scale: [*batch, D], or [*batch] for spherical noise.
          centre: [P], 0 by default.
          floor, known: see the class.

        >>> walk = LinearGaussian.create(jnp.eye(1), jnp.zeros(1), jnp.ones(1), known=("weights", "bias"))
        >>> walk.free_parameters()  # of z_{t+1} = z_t + noise
        1
        """
        weights = floating("weights", weights, 2)
        bias = check_shape("bias", bias, weights.shape[:-1])
        scale = check_shape("scale", scale, bias.shape, bias.shape[:-1])
        centre = jnp.zeros_like(weights, shape=weights.shape[-1:]) if centre is None else centre
        centre = check_shape("centre", centre, weights.shape[-1:])
        known = check_names("known", known, _PARAMETERS)
        require_positive("scale", scale, "a noise of exactly 0 has no density: give it a small one")
        log_scale = jnp.log(jnp.where(scale > 0, scale, jnp.nan))
        return cls(weights, bias, log_scale, centre, jnp.asarray(floor, weights.dtype), known=known)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of the fields that no gradient moves."""
        return ("centre", "floor", *(_PARAMETERS[name] for name in self.known))

    def __repr__(self) -> str:
        return told(self, weights=lambda: self.weights, bias=lambda: self.bias, scale=self.scale)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of components."""
        return self.bias.shape[:-1]

    @property
    def event_size(self) -> int:
        """D."""
        return self.weights.shape[-2]

    @property
    def input_size(self) -> int:
        """P."""
        return self.weights.shape[-1]

    @property
    def spherical(self) -> bool:
        """Whether all of y has one noise scale."""
        return self.log_scale.ndim < self.bias.ndim

    def scale(self) -> jax.Array:
        """Standard deviations of the noise, [*batch, D]."""
        return jnp.broadcast_to(jnp.exp(self._log_scale()), self.bias.shape)

    def floored(self) -> jax.Array:
        """Which standard deviations of the noise stand at the floor, bool, shaped like log_scale."""
        return at_floor(self.log_scale, self._floor())

    def project(self) -> "LinearGaussian":
        """The same distribution, with no log_scale below the floor's."""
        log_scale = at_least(self.log_scale, self._floor())
        return replace(self, log_scale=self.log_scale if "scale" in self.known else log_scale)

    def mean(self, x: jax.Array) -> jax.Array:
        """E[y | x] for one x [P], [*batch, D]."""
        return self.bias + self._slope(self._design(x))

    @density
    def log_prob(self, y: jax.Array, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """ln N(y; mean(x), noise) of one datum y [D], x [P] under each component, [*batch], nats. O(DP) a component.

        Args:
          y: [D].
          x: [P].
          weight: what the noise's variances are divided by for this datum, a scalar > 0; 1 by default.

        >>> f = LinearGaussian.create(jnp.array([[1.0]]), jnp.zeros(1), jnp.ones(1))
        >>> f.log_prob(jnp.ones(1), jnp.zeros(1), weight=4.0).tolist()  # standard deviation ½: -½ ln 2π + ln 2 - 2
        -2.2258
        """
        check_event("y", y, (self.event_size,))
        design = self._design(x)
        r = (y - self.bias - self._slope(design)) * jnp.exp(-self._log_scale())
        square = jnp.sum(jnp.square(r), -1)
        if weight is None:
            contract = _contract_spherical if self.spherical else _contract
            return tapped(contract, -0.5 * square - self._constant(), self.tap, design, r)
        check_event("weight", weight, ())
        value = -0.5 * (weight * square - self.event_size * jnp.log(weight)) - self._constant()
        contract = _contract_spherical_weighted if self.spherical else _contract_weighted
        return tapped(contract, value, self.tap, weight, design, r)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """One y per component for one x [P], [*batch, D]."""
        return self.mean(x) + self.scale() * jax.random.normal(key, self.bias.shape, self.bias.dtype)

    def zero_statistics(self) -> Statistics:
        """Statistics of no data."""
        batch, size = self.batch_shape, self.input_size + 1
        moment, cross, count = (
            jnp.zeros_like(self.bias, shape=(*batch, *s)) for s in ((size, size), (size, self.event_size), ())
        )
        return Statistics(moment, cross, jnp.zeros_like(self.log_scale), count)

    def free_parameters(self) -> int:
        """How many free numbers the batch of components has."""
        return sum(getattr(self, place).size for name, place in _PARAMETERS.items() if name not in self.known)

    def named(self) -> dict[str, jax.Array]:
        """The parameters by their usual names."""
        return {"weights": self.weights, "bias": self.bias, "variance": self.scale() ** 2}

    def at_bound(self, statistics: Statistics) -> dict[str, jax.Array]:
        """Which numbers stand at the end of their range, by field."""
        return {"log_scale": self.floored()}

    def empty(self, statistics: Statistics) -> jax.Array:
        """Components without data, bool [*batch]."""
        return statistics.moment[..., 0, 0] <= 0

    def log_likelihood(self, statistics: Statistics) -> jax.Array:
        """Σ ln N(y; mean(x), noise) of the data behind the statistics, a scalar in nats."""
        return -0.5 * jnp.sum(statistics.second) - jnp.sum(statistics.scale_count * self._constant())

    def maximize(self, statistics: Statistics) -> "LinearGaussian":
        """The weighted least-squares regression and its noise. O(P³ + P² D) a component."""
        moment, cross, second, scale_count = statistics
        if self.known:
            # a regressor of which nothing is said keeps its coefficient
            free = jnp.asarray(["bias" not in self.known, *["weights" not in self.known] * self.input_size])
            moment, cross = jnp.where(free[:, None] & free, moment, 0), jnp.where(free[:, None], cross, 0)
        # normal equations by LDLᵀ: the column of ones is first, so that the pivots of the others are those of centred x
        factor = ldl(moment)
        inverse = triangular_inverse(factor.lower)
        along = matmul(inverse, cross)
        pivots, regular = factor.pivots[..., None], factor.regular[..., None]
        coefficients = jnp.where(regular, along / jnp.where(regular, pivots, 1), 0)
        step = matmul(jnp.swapaxes(inverse, -1, -2), coefficients) * self.scale()[..., None, :]
        explained = jnp.sum(along * coefficients, -2)
        # mean squares of weights · (x − centre), which the residuals have lost in (y − bias) − weights (x − centre)
        squares = jnp.diagonal(statistics.moment, axis1=-2, axis2=-1)
        inputs = divide(squares, squares[..., :1])[..., 1:]
        relative = self.weights * jnp.exp(-self._log_scale())[..., None]
        terms = matmul(relative**2, inputs[..., None])[..., 0]
        if self.spherical:
            residual, total = second - jnp.sum(explained, -1), self.event_size * scale_count
            terms = jnp.mean(terms, -1)
        else:
            residual, total = second - explained, scale_count[..., None]
        log_scale = at_least(self.log_scale, self._floor())
        new = {
            "weights": self.weights + jnp.swapaxes(step[..., 1:, :], -1, -2),
            "bias": self.bias + step[..., 0, :],
            "scale": update_log_scale(log_scale, residual, second, total, self._floor(), terms),
        }
        moved: Any = {_PARAMETERS[name]: a for name, a in new.items() if name not in self.known}
        return replace(self, tap=None, **moved)

    def statistics_of(self, reference: "LinearGaussian") -> Statistics:
        """E T(x, y) of one datum, in this family's coordinates; what pseudo-data are made of.

        Its x has mean reference.centre and covariance I (in units of x), its y is drawn from reference given x.
        """
        # x̃ = A x̃ᵣ for the x̃ᵣ of the reference, and E x̃ᵣ x̃ᵣᵀ = I
        shift = jnp.eye(self.input_size + 1, dtype=self.bias.dtype).at[1:, 0].set(reference.centre - self.centre)
        # y − mean(x) = x̃ᵣᵀ difference + noise
        difference = reference._coefficients() - matmul(shift.T, self._coefficients())
        difference = difference * jnp.exp(-self._log_scale())[..., None, :]
        moment = jnp.broadcast_to(matmul(shift, shift.T), (*self.batch_shape, *shift.shape))
        second = self._sum(jnp.sum(difference**2, -2) + self._ratio(reference) ** 2)
        return Statistics(moment, matmul(shift, difference), second, jnp.ones_like(moment[..., 0, 0]))

    def scale_statistics_of(self, reference: "LinearGaussian") -> Statistics:
        """The same for a datum of which only the spread of y around the family's own mean(x) counts."""
        zero = self.zero_statistics()
        count = jnp.ones_like(zero.scale_count)
        return zero._replace(second=self._sum(self._ratio(reference) ** 2), scale_count=count)

    def expected(self, statistics: Statistics) -> Statistics:
        """The statistics expected of as many y, at the same x, drawn from this family."""
        count = statistics.scale_count
        second = self.event_size * count if self.spherical else jnp.broadcast_to(count[..., None], self.bias.shape)
        return statistics._replace(cross=jnp.zeros_like(statistics.cross), second=second)

    def rebase(self, statistics: Statistics, old: "LinearGaussian") -> Statistics:
        """What this family would have measured where `old` measured the statistics of data (not of a prior)."""
        moment, cross, second, scale_count = statistics
        # x̃ = A · old x̃ and r = ratio · old r + differenceᵀ · old x̃
        shift = jnp.eye(self.input_size + 1, dtype=self.bias.dtype).at[1:, 0].set(old.centre - self.centre)
        difference = old._coefficients() - matmul(shift.T, self._coefficients())
        difference = difference * jnp.exp(-self._log_scale())[..., None, :]
        ratio = self._ratio(old)
        cross, constant = ratio[..., None, :] * cross, matmul(moment, difference)
        extra = self._sum(jnp.sum((2 * cross + constant) * difference, -2))
        return Statistics(
            matmul(matmul(shift, moment), shift.T),
            matmul(shift, cross + constant),
            jnp.exp(2 * (old._log_scale() - self._log_scale())).reshape(second.shape) * second + extra,
            scale_count,
        )

    def _design(self, x):
        check_event("x", x, (self.input_size,))
        x = x - jax.lax.stop_gradient(self.centre)
        return jnp.concatenate([jnp.ones_like(x, shape=1), x])

    def _slope(self, design):
        return jnp.dot(self.weights, design[1:], precision=PRECISION)

    def _coefficients(self):
        return jnp.concatenate([self.bias[..., None, :], jnp.swapaxes(self.weights, -1, -2)], -2)

    def _floor(self):
        return jnp.max(self.floor, -1) if self.spherical and jnp.ndim(self.floor) else self.floor

    def _log_scale(self):
        log_scale = at_least(self.log_scale, self._floor())
        return log_scale[..., None] if self.spherical else log_scale

    def _constant(self):
        log_det = jnp.sum(jnp.broadcast_to(self._log_scale(), self.bias.shape), -1)
        return log_det + 0.5 * self.event_size * math.log(2 * math.pi)

    def _ratio(self, reference):
        return jnp.broadcast_to(jnp.exp(reference._log_scale() - self._log_scale()), self.bias.shape)

    def _sum(self, second):
        return jnp.sum(second, -1) if self.spherical else second


def _contract(tap: Statistics, design: jax.Array, r: jax.Array) -> jax.Array:
    return _contract_linear(tap, design, r) + jnp.sum(tap.second * jnp.square(r), -1)


def _contract_spherical(tap: Statistics, design: jax.Array, r: jax.Array) -> jax.Array:
    return _contract_linear(tap, design, r) + tap.second * jnp.sum(jnp.square(r), -1)


def _contract_linear(tap: Statistics, design: jax.Array, r: jax.Array) -> jax.Array:
    square = jnp.dot(jnp.dot(tap.moment, design, precision=PRECISION), design, precision=PRECISION)
    cross = jnp.einsum("...pd,p->...d", tap.cross, design, precision=PRECISION)
    return tap.scale_count + square + jnp.sum(cross * r, -1)


_contract_weighted, _contract_spherical_weighted = weighted(_contract), weighted(_contract_spherical)
