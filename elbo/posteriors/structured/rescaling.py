"""The probability domain: potentials as factors, and when rescaled passes may be trusted.

A pass in the probability domain rescales its weights as it goes, and loses a number that falls below `tiny`. How much
that matters is what the other half of the pass says, for a state that is far behind may be the only one that finishes.
So the first half is made to err upwards: factors are at least e tiny, weights at least a floor, hard zeros stay 0.

Z is linear in each number that the pass forms. Raise the numbers to the computed ones, one after the other in the order
of the pass: each adds its surplus times ∂Z / ∂(number), in which every number is true or raised already, so at most the
computed one. With each surplus at most δ,

    0 <= relative error of Z <= δ Σ ∂ ln Z / ∂(number),  all as computed,

apart from rounding, and the same bounds the total variation between the true and the computed distributions, thus all
marginals. If the bound is small the pass was right, whatever the potentials are. If it is large or NaN, log space
decides. A structure says what its floor δ is, and how it bounds the sum with and without the second half.
"""

import math

import jax
import jax.numpy as jnp

from ...numerics import IMPOSSIBLE


def least_log(dtype: jnp.dtype) -> float:
    """ln of the least factor but 0: a number below tiny may be flushed to 0."""
    return math.log(float(jnp.finfo(dtype).tiny)) + 1


def factors(log: jax.Array, top: jax.Array | float = 0.0) -> jax.Array:
    """exp(log − top) for log <= top; hard zeros are 0, other factors at least e times the smallest normal number."""
    return jnp.where(log <= IMPOSSIBLE, 0, jnp.exp(jnp.maximum(log - top, least_log(log.dtype))))


def ratio(dtype: jnp.dtype) -> float:
    """tiny / eps, what floors are made of: what is lost below tiny is a rounding error of what stands above."""
    return float(jnp.finfo(dtype).tiny) / float(jnp.finfo(dtype).eps)


def negligible(lost: jax.Array) -> jax.Array:
    """Whether a bound on the relative error of Z is as small as rounding; not if it is NaN."""
    return lost <= 16 * jnp.finfo(lost.dtype).eps
