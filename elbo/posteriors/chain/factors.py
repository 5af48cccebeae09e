"""Chains in the probability domain: potentials as factors, and the bound on what rescaling them may lose."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...numerics import LOG_ZERO, PRECISION
from ..structured.rescaling import factors, negligible, ratio

# The floor, and the two bounds of `structured.rescaling`.
#
# Forwards α_t = (α_{t-1} A) * E_t / c_t with c_t such that Σ_j α_t(j) = 1, and ln Z = Σ_t ln c_t + the maxima that were
# taken out of A <= 1 and E <= 1. Backwards, with the same scales, β_{t-1} = A (E_t * β_t / c_t), and ∂ ln Z / ∂ α_t =
# β_t because ⟨α_t, β_t⟩ = 1. α is kept at least δ f_t where δ = K tiny / eps and f_t is 1, or what the scale of the
# pass makes of it. One step then adds to an entry of α, or takes from it, at most
#     δ f_t (the floor) + (K products and their sum, the floors of A and E: 8 K tiny) / c_t = δ (f_t + 8 eps / c_t).
# Hence
#     |relative error of Z| <= δ Σ_t (f_t + 8 eps / c_t) Σ_j β_t(j).
# β itself loses 2 K tiny at most in a step. Whatever an earlier frame adds has flowed into α_t <= 1 by then, since α
# never falls below the floor, so that all this changes the bound by 32 T eps² at most where it holds.
#
# Without β: where the entries of each column of A differ by a factor of at most r, β_t(i) <= r β_t(j) for all i and j,
# and because ⟨α_t, β_t⟩ = 1, some β_t(j) <= 1. So Σ_j β_t(j) <= K r, and the forward pass has a bound by itself. In
# float32 it suffices for transition potentials within about 40 nats of each other.


class Factors(NamedTuple):
    """Potentials as factors: initial, transitions and states <= 1.

    Attributes:
      log_scale: the log of what was taken out, a scalar; not finite where some potential is not.
      possible: whether there is a path, as far as hard zeros tell, a bool scalar.
    """

    initial: jax.Array
    transitions: jax.Array
    states: jax.Array
    log_scale: jax.Array
    possible: jax.Array


class Filtered(NamedTuple):
    """What a forward pass finds.

    Attributes:
      weights: α_t times any number of the frame, [T, K].
      norms: c_t, [T]; 1 in the padding.
      floors: the floor of α_t in units of δ, [T].
      cuts: the weight below which α_t < δ, or stands at its floor, [T]: marginals are 0 there.
    """

    weights: jax.Array
    norms: jax.Array
    floors: jax.Array
    cuts: jax.Array


def product(vector: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    """vector @ matrix (axis 0) or matrix @ vector (1), [K]; for few states as a sum, which is fused with the loop."""
    if vector.size <= 16:
        return jnp.sum(jnp.expand_dims(vector, 1 - axis) * matrix, axis)
    return jax.lax.dot_general(vector, matrix, (((0,), (axis,)), ((), ())), precision=PRECISION)


def as_factors(log: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The factors below the maximum over some axes, and the maximum."""
    top = jnp.max(log, axis=axes, keepdims=True)
    return factors(log, top), top


def largest_difference(log: jax.Array) -> jax.Array:
    """The largest difference within a column of transition potentials, nats."""
    return jnp.max(jnp.max(log, axis=-2) - jnp.min(log, axis=-2), initial=0)


def floor(initial: jax.Array) -> float:
    """δ, the least filtered probability that is kept."""
    return ratio(initial.dtype) * initial.size


def loss(norms: jax.Array, floors: jax.Array | float = 1.0) -> jax.Array:
    """What one step adds to an entry of α, in units of δ; floors: that of α_t, in the same units."""
    return floors + 8 * jnp.finfo(norms.dtype).eps / norms


def verdict(log_z: jax.Array, lost: jax.Array, log_scale: jax.Array, possible: jax.Array) -> tuple:
    """ln Z, `LOG_ZERO` or NaN where that is known beforehand, and whether it is known to be right.

    lost: the bound on its relative error.
    """
    log_z = jnp.where(possible, log_z, LOG_ZERO)
    sound = jnp.isfinite(log_scale)
    return jnp.where(sound, log_z, jnp.nan), negligible(lost) | ~possible | ~sound


def per_total(joint: jax.Array, inside: jax.Array, log_scale: jax.Array) -> jax.Array:
    """1 / Σ_k joint, [T]: 1 but for rounding that drifts in a long chain; 0 outside, NaN for potentials like that."""
    return jnp.where(inside, jnp.where(jnp.isfinite(log_scale), 1, jnp.nan) / jnp.sum(joint, axis=1), 0)
