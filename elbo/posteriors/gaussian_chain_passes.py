"""Passes over a Gaussian chain, a frame after the other or in parallel: elimination, smoothing, second moments.

All read Λ, the block-tridiagonal precision of z [T, D], as diagonal_t = Λ_{t,t} and below_t = Λ_{t,t-1} (below_0 = 0),
both [T, D, D]. On the CPU the sequential forms are the faster ones; elsewhere the depth log T of the others counts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..linalg import cholesky, matmul, triangular_inverse


def eliminate(diagonal: jax.Array, below: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The chain backward in time: z_t | z_{t+1} ~ N(shift_t − gain_t z_{t+1}, root_tᵀ root_t); the pass of a filter.

    Args:
      diagonal, below: the precision Λ, [T, D, D].
      linear: h in P(z) ∝ exp(−½ zᵀ Λ z + hᵀ z), [T, D].

    Returns:
      root [T, D, D], lower triangular; gain [T, D, D], the last one 0; shift [T, D]. NaN unless Λ is positive definite.
    """
    root, shift = _on_platform(eliminate_sequential, eliminate_parallel, diagonal, below, linear)
    after = jnp.concatenate([below[1:], jnp.zeros_like(below[:1])])
    return root, matmul(_square(root), _transpose(after)), shift


def solve(gain: jax.Array, shift: jax.Array) -> jax.Array:
    """x with x_t = shift_t − gain_t x_{t+1}, [T, D]."""
    return _on_platform(solve_sequential, solve_parallel, gain, shift)


def spread(gain: jax.Array, root: jax.Array) -> jax.Array:
    """P with P_t = root_tᵀ root_t + gain_t P_{t+1} gain_tᵀ, [T, D, D]: the variances of the frames."""
    return _on_platform(spread_sequential, spread_parallel, gain, _square(root))


def eliminate_sequential(diagonal: jax.Array, below: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array]:
    """root and shift by block Cholesky, Λ = C Cᵀ with C_{t,t}⁻¹ = root_t. O(T D³)."""

    def step(carry, frame):
        variance, mean = carry
        diagonal, below, linear = frame
        root = triangular_inverse(cholesky(diagonal - matmul(matmul(below, variance), below.T)))
        variance = _square(root)
        mean = _apply(variance, linear - _apply(below, mean))
        return (variance, mean), (root, mean)

    # zeros that depend on nothing: under vmap, what is common to all data stays so
    start = jnp.zeros(diagonal.shape[1:], diagonal.dtype), jnp.zeros(linear.shape[1:], linear.dtype)
    return jax.lax.scan(step, start, (diagonal, below, linear))[1]


def eliminate_parallel(diagonal: jax.Array, below: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same by an associative scan, the parallel filter of Särkkä & García-Fernández (2021) on precisions.

    An element is a function of two frames, exp −½(fᵀ first f + 2 lᵀ cross f + lᵀ last l) + uᵀ f + vᵀ l, of which frames
    between have been integrated out. What joins two elements is positive definite: a Schur complement of Λ.
    """

    def join(left, right):
        first, left_cross, left_last, u, left_v = left
        right_first, right_cross, last, right_u, v = right
        whitener = triangular_inverse(cholesky(left_last + right_first))
        before, after = matmul(whitener, left_cross), matmul(whitener, _transpose(right_cross))
        middle = _apply(whitener, left_v + right_u)
        return (
            first - matmul(_transpose(before), before),
            -matmul(_transpose(after), before),
            last - matmul(_transpose(after), after),
            u - _apply(_transpose(before), middle),
            v - _apply(_transpose(after), middle),
        )

    zero, none = jnp.zeros_like(diagonal), jnp.zeros_like(linear)
    _, _, last, _, v = jax.lax.associative_scan(join, (zero, below, diagonal, none, linear))
    root = triangular_inverse(cholesky(last))
    return root, _apply(_square(root), v)


def solve_sequential(gain: jax.Array, shift: jax.Array) -> jax.Array:
    """x_t = shift_t − gain_t x_{t+1} by a scan. O(T D²)."""

    def step(x, frame):
        gain, shift = frame
        x = shift - _apply(gain, x)
        return x, x

    return jax.lax.scan(step, jnp.zeros(shift.shape[1:], shift.dtype), (gain, shift), reverse=True)[1]


def solve_parallel(gain: jax.Array, shift: jax.Array) -> jax.Array:
    """The same by an associative scan of affine maps. O(T D³), depth log T."""

    def join(late, early):
        return matmul(early[0], late[0]), early[1] + _apply(early[0], late[1])

    return jax.lax.associative_scan(join, (-gain, shift), reverse=True)[1]


def spread_sequential(gain: jax.Array, variance: jax.Array) -> jax.Array:
    """P_t = variance_t + gain_t P_{t+1} gain_tᵀ by a scan. O(T D³)."""

    def step(p, frame):
        gain, variance = frame
        p = variance + matmul(matmul(gain, p), gain.T)
        return p, p

    return jax.lax.scan(step, jnp.zeros(variance.shape[1:], variance.dtype), (gain, variance), reverse=True)[1]


def spread_parallel(gain: jax.Array, variance: jax.Array) -> jax.Array:
    """The same by an associative scan. O(T D³), depth log T."""

    def join(late, early):
        across = early[0]
        return matmul(across, late[0]), early[1] + matmul(matmul(across, late[1]), _transpose(across))

    return jax.lax.associative_scan(join, (-gain, variance), reverse=True)[1]


def _on_platform(sequential: Callable, parallel: Callable, *args: jax.Array):
    return jax.lax.platform_dependent(*args, cpu=sequential, default=parallel)


def _transpose(a: jax.Array) -> jax.Array:
    return jnp.swapaxes(a, -1, -2)


def _square(root: jax.Array) -> jax.Array:
    return matmul(_transpose(root), root)


def _apply(a: jax.Array, x: jax.Array) -> jax.Array:
    return matmul(a, x[..., None])[..., 0]
