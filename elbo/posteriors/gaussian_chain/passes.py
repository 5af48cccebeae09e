"""Passes over a Gaussian chain, a frame after the other or in parallel: elimination, smoothing, second moments.

They work on rows of a least-squares problem, roots of precisions, and turn these by orthogonal maps (Paige & Saunders
1977): no precision is formed, added or subtracted, so that parts of very different size keep their digits. On the CPU
the sequential forms are the faster ones; elsewhere the depth log T of the others counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._platform import by_platform
from ...linalg import cholesky, matmul, triangular_inverse, triangularize


class Rows(NamedTuple):
    """−2 ln P(z) as a sum of squares, |first z_0 − start|² + Σ_t |own_t z_t − seen_t|² + the same of pairs of frames,
    Σ_t |before_t z_t + after_t z_{t+1} − step_t|².

    Attributes:
      first: [D, D]; start: [D].
      own: [T, K, D]; seen: [T, K].
      before, after: [T, D, D]; step: [T, D]; all 0 for the last frame.
    """

    first: jax.Array
    start: jax.Array
    own: jax.Array
    seen: jax.Array
    before: jax.Array
    after: jax.Array
    step: jax.Array


class Eliminated(NamedTuple):
    """The chain backward in time, and what the frames before each say of it.

    Attributes:
      root, gain, shift: z_t | z_{t+1} ~ N(shift_t − gain_t z_{t+1}, root_tᵀ root_t), root [T, D, D] lower triangular,
        gain [T, D, D] (the last one 0), shift [T, D].
      past, told: the frames before t say |past_t z_t − told_t|² of z_t; [T, D, D], [T, D].
    """

    root: jax.Array
    gain: jax.Array
    shift: jax.Array
    past: jax.Array
    told: jax.Array


def eliminate(rows: Rows) -> Eliminated:
    """The pass of a filter; not finite unless the rows determine z. O(T D² (D + K))."""
    r, c, past, told = _on_platform(eliminate_sequential, eliminate_parallel, rows)
    size = past.shape[-1]
    inverse = _transpose(triangular_inverse(_transpose(r[..., :size])))
    return Eliminated(_transpose(inverse), matmul(inverse, r[..., size:]), applied(inverse, c), past, told)


def eliminate_sequential(rows: Rows) -> tuple[jax.Array, ...]:
    """By a scan: rows [T, D, 2 D] of each frame and the next and their side [T, D]; past and told."""

    def step(carry, frame):
        r, c, past, told = _advance(*carry, *frame)
        return (past, told), (r, c, *carry)

    first, start, *frames = rows
    return jax.lax.scan(step, (first, start), tuple(frames))[1]


def _advance(past, told, own, seen, before, after, step) -> tuple[jax.Array, ...]:
    """A frame eliminated: its rows in it and in the next, [D, 2 D], their side [D], and what is told of the next."""
    none = jnp.zeros_like(past)
    a = jnp.concatenate(
        [
            jnp.concatenate([before, after], -1),
            jnp.concatenate([past, none], -1),
            jnp.concatenate([own, jnp.zeros_like(own)], -1),
        ],
        -2,
    )
    r, c, _ = triangularize(a, jnp.concatenate([step, told, seen], -1))
    size = past.shape[-1]
    return r[..., :size, :], c[..., :size], r[..., size:, size:], c[..., size:]


def eliminate_parallel(rows: Rows) -> tuple[jax.Array, ...]:
    """The same by an associative scan, in the manner of Särkkä & García-Fernández (2021).

    An element is what a stretch of frames says of the frame before it and of its last one: 2 D rows, of which the
    frames between have been eliminated.
    """
    size = rows.after.shape[-1]

    def join(left, right):
        (a, u), (b, v) = left, right
        (a_first, a_last), (b_first, b_last) = jnp.split(a, 2, -1), jnp.split(b, 2, -1)
        above = jnp.concatenate([a_last, a_first, jnp.zeros_like(a_first)], -1)
        below = jnp.concatenate([b_first, jnp.zeros_like(b_first), b_last], -1)
        r, c, _ = triangularize(jnp.concatenate([above, below], -2), jnp.concatenate([u, v], -1))
        return r[..., size:, size:], c[..., size:]

    before, after, step = (_previous(a) for a in (rows.before, rows.after, rows.step))
    start = jnp.zeros_like(rows.after).at[0].set(rows.first), jnp.zeros_like(rows.step).at[0].set(rows.start)
    own, seen, _ = triangularize(*(jnp.concatenate(pair, 1) for pair in zip((rows.own, rows.seen), start, strict=True)))
    pair = jnp.concatenate([before, after], -1)
    a = jnp.concatenate([pair, jnp.concatenate([jnp.zeros_like(own), own], -1)], -2)
    a, b = jax.lax.associative_scan(join, (a, jnp.concatenate([step, seen], -1)))
    # nothing is said of a frame before the first: these are rows of the last frame alone
    present, told, _ = triangularize(a[..., size:], b)
    r, c, past, ahead = _advance(present, told, own[:, :0], seen[:, :0], rows.before, rows.after, rows.step)
    return r, c, _previous(past).at[0].set(rows.first), _previous(ahead).at[0].set(rows.start)


def eliminate_precision(diagonal: jax.Array, below: jax.Array, linear: jax.Array) -> Eliminated:
    """The same for P(z) ∝ exp(−½ zᵀ Λ z + linearᵀ z), by block Cholesky; `past` is 0 here.

    Where Λ is a sum of parts that differ in size, digits of the smaller are lost.

    Args:
      diagonal, below: Λ_{t,t} and Λ_{t,t-1} (0 for the first frame), [T, D, D].
      linear: [T, D].
    """
    root, shift = _on_platform(precision_sequential, precision_parallel, diagonal, below, linear)
    gain = matmul(_square(root), _transpose(_next(below)))
    return Eliminated(root, gain, shift, jnp.zeros_like(root), jnp.zeros_like(shift))


def solve(gain: jax.Array, shift: jax.Array) -> jax.Array:
    """x with x_t = shift_t − gain_t x_{t+1}, [T, D]."""
    return _on_platform(solve_sequential, solve_parallel, gain, shift)


def spread(gain: jax.Array, root: jax.Array) -> jax.Array:
    """S with S_tᵀ S_t = root_tᵀ root_t + gain_t S_{t+1}ᵀ S_{t+1} gain_tᵀ, [T, D, D]: roots of the frames' variances."""
    return _on_platform(spread_sequential, spread_parallel, gain, root)


def precision_sequential(diagonal: jax.Array, below: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array]:
    """root and shift by block Cholesky, Λ = C Cᵀ with C_{t,t}⁻¹ = root_t. O(T D³)."""

    def step(carry, frame):
        variance, mean = carry
        diagonal, below, linear = frame
        root = triangular_inverse(cholesky(diagonal - matmul(matmul(below, variance), below.T)))
        variance = _square(root)
        mean = applied(variance, linear - applied(below, mean))
        return (variance, mean), (root, mean)

    # zeros that depend on nothing: under vmap, what is common to all data stays so
    start = jnp.zeros(diagonal.shape[1:], diagonal.dtype), jnp.zeros(linear.shape[1:], linear.dtype)
    return jax.lax.scan(step, start, (diagonal, below, linear))[1]


def precision_parallel(diagonal: jax.Array, below: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same by an associative scan, the parallel filter of Särkkä & García-Fernández (2021) on precisions.

    An element is a function of two frames, exp −½(fᵀ first f + 2 lᵀ cross f + lᵀ last l) + uᵀ f + vᵀ l, of which frames
    between have been integrated out. What joins two elements is positive definite: a Schur complement of Λ.
    """

    def join(left, right):
        first, left_cross, left_last, u, left_v = left
        right_first, right_cross, last, right_u, v = right
        whitener = triangular_inverse(cholesky(left_last + right_first))
        before, after = matmul(whitener, left_cross), matmul(whitener, _transpose(right_cross))
        middle = applied(whitener, left_v + right_u)
        return (
            first - matmul(_transpose(before), before),
            -matmul(_transpose(after), before),
            last - matmul(_transpose(after), after),
            u - applied(_transpose(before), middle),
            v - applied(_transpose(after), middle),
        )

    zero, none = jnp.zeros_like(diagonal), jnp.zeros_like(linear)
    _, _, last, _, v = jax.lax.associative_scan(join, (zero, below, diagonal, none, linear))
    root = triangular_inverse(cholesky(last))
    return root, applied(_square(root), v)


def solve_sequential(gain: jax.Array, shift: jax.Array) -> jax.Array:
    """x_t = shift_t − gain_t x_{t+1} by a scan. O(T D²)."""

    def step(x, frame):
        gain, shift = frame
        x = shift - applied(gain, x)
        return x, x

    return jax.lax.scan(step, jnp.zeros(shift.shape[1:], shift.dtype), (gain, shift), reverse=True)[1]


def solve_parallel(gain: jax.Array, shift: jax.Array) -> jax.Array:
    """The same by an associative scan of affine maps. O(T D³), depth log T."""

    def join(late, early):
        return matmul(early[0], late[0]), early[1] + applied(early[0], late[1])

    return jax.lax.associative_scan(join, (-gain, shift), reverse=True)[1]


def spread_sequential(gain: jax.Array, root: jax.Array) -> jax.Array:
    """By a scan. O(T D³)."""

    def step(after, frame):
        s = _join_roots(frame[0], frame[1], after)
        return s, s

    return jax.lax.scan(step, jnp.zeros(root.shape[1:], root.dtype), (gain, root), reverse=True)[1]


def spread_parallel(gain: jax.Array, root: jax.Array) -> jax.Array:
    """The same by an associative scan. O(T D³), depth log T."""

    def join(late, early):
        return matmul(early[0], late[0]), _join_roots(early[0], early[1], late[1])

    return jax.lax.associative_scan(join, (gain, root), reverse=True)[1]


def _join_roots(gain: jax.Array, root: jax.Array, after: jax.Array) -> jax.Array:
    rows = jnp.concatenate([root, matmul(after, _transpose(gain))], -2)
    return triangularize(rows, jnp.zeros_like(rows[..., 0]))[0]


def _next(a: jax.Array) -> jax.Array:
    return jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])


def _previous(a: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]])


def _on_platform(sequential: Callable, parallel: Callable, *args):
    return by_platform(*args, cpu=sequential, default=parallel)


def _transpose(a: jax.Array) -> jax.Array:
    return jnp.swapaxes(a, -1, -2)


def _square(root: jax.Array) -> jax.Array:
    return matmul(_transpose(root), root)


def applied(a: jax.Array, x: jax.Array) -> jax.Array:
    """a_t x_t, of matrices [..., M, N] and vectors [..., N]."""
    return matmul(a, x[..., None])[..., 0]


def transposed(a: jax.Array, x: jax.Array) -> jax.Array:
    """a_tᵀ x_t, of matrices [..., M, N] and vectors [..., M]."""
    return applied(_transpose(a), x)
