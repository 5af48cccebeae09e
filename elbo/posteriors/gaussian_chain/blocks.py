"""The curvature of a quadratic function of a path, block by block, and its roots."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...linalg import ldl, matmul, triangular_inverse
from ...numerics import PRECISION
from .parts import Apart, Path
from .passes import Rows, applied, transposed


class Potentials(NamedTuple):
    """A quadratic function of a Path: minus its curvatures, and its slopes at 0.

    Attributes:
      own: of each frame, [T, D, D]; below: of frame t + 1 with frame t, where `own` couples them, [T − 1, D, D].
      first: [D, D].
      after, cross, before: of z_{t+1}, of z_{t+1} with z_t, and of z_t, in what reads pairs, [T − 1, D, D].
      slope: Path.
      doubt: 0, or NaN where the function couples frames that are no neighbours.
    """

    own: jax.Array
    below: jax.Array
    first: jax.Array
    after: jax.Array
    cross: jax.Array
    before: jax.Array
    slope: Path
    doubt: jax.Array

    def summed(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The precision's blocks on the diagonal [T, D, D] and below it [T − 1, D, D], and the linear part [T, D]."""
        diagonal = self.own.at[1:].add(self.after).at[:-1].add(self.before).at[0].add(self.first)
        slope = self.slope
        linear = slope.own.at[1:].add(slope.after).at[:-1].add(slope.before).at[:1].add(slope.first)
        return diagonal, self.below + self.cross, linear

    def masked(self, mask: jax.Array) -> "Potentials":
        """With frames where mask [T] is False made N(0, I), and coupled to none."""
        wide, pair = mask[:, None, None], mask[1:, None, None]
        eye = jnp.eye(self.own.shape[-1], dtype=self.own.dtype)
        after, cross, before = (jnp.where(pair, a, 0) for a in (self.after, self.cross, self.before))
        slope = self.slope._replace(
            own=jnp.where(mask[:, None], self.slope.own, 0),
            before=jnp.where(mask[1:, None], self.slope.before, 0),
            after=jnp.where(mask[1:, None], self.slope.after, 0),
        )
        own, below = jnp.where(wide, self.own, eye), jnp.where(pair, self.below, 0)
        return Potentials(own, below, self.first, after, cross, before, slope, self.doubt)


class Root(NamedTuple):
    """exp(−½ zᵀ M z + hᵀ z) as rows, −½ |rows z − side|² + const.

    Attributes:
      rows: [..., D, D], upper triangular; side: [..., D].
      sound: [...], whether M is positive semi-definite and has all of h in its range, to rounding.
    """

    rows: jax.Array
    side: jax.Array
    sound: jax.Array


def potentials(g: Apart, z: jax.Array) -> Potentials:
    """What g, quadratic, is made of; z [T, D] is 0."""
    zero, size = Path.of(z), z.shape[1]
    own, below, doubt = hessian_blocks(lambda own: g.value(zero._replace(own=own)), z)
    first = jax.hessian(lambda first: g.value(zero._replace(first=first[None])))(zero.first[0])
    slope = jax.grad(lambda before, after: g.value(zero._replace(before=before, after=after)), (0, 1))

    def product(before, after):
        return jax.jvp(slope, (zero.before, zero.after), (before, after))[1]

    units = jnp.broadcast_to(jnp.eye(size, dtype=z.dtype)[:, None], (size, *zero.after.shape)) + zero.after
    none = jnp.zeros_like(units)
    columns = jax.vmap(product)(jnp.concatenate([units, none]), jnp.concatenate([none, units]))
    before, after = (jnp.transpose(a, (1, 2, 0)) for a in columns)
    last, cross, own_before = -after[..., size:], -after[..., :size], -before[..., :size]
    doubt = doubt + frame_doubt(g, zero)
    return Potentials(-own, -below, -first, last, cross, own_before, jax.grad(g.value)(zero), doubt)


def least_squares(parts: Potentials) -> tuple[Rows, jax.Array]:
    """The rows whose squares make up −2 g, and whether they do: not where a part by itself is not concave."""
    size = parts.own.shape[-1]
    pair = jnp.concatenate(
        [
            jnp.concatenate([parts.after, parts.cross], -1),
            jnp.concatenate([jnp.swapaxes(parts.cross, -1, -2), parts.before], -1),
        ],
        -2,
    )
    rows, side, sound, rest, slope = _pair_root(pair, jnp.concatenate([parts.slope.after, parts.slope.before], -1))
    own = root(parts.own.at[:-1].add(rest), parts.slope.own.at[:-1].add(slope))
    start = root(parts.first, parts.slope.first[0])
    last = ((0, 1), (0, 0), (0, 0))
    fits = jnp.all(sound) & jnp.all(own.sound) & start.sound & ~jnp.any(parts.below)
    after, before = (jnp.pad(a, last) for a in (rows[..., :size], rows[..., size:]))
    shares = start.rows, start.side, own.rows, own.side
    return Rows(*shares, before, after, jnp.pad(side, last[:2])), fits


def root(m: jax.Array, h: jax.Array) -> Root:
    """Roots of m [..., D, D], whose pivots that are zero to rounding count as 0."""
    rows, whitened, good, scale, fits = _factor(m, h)
    left = jnp.abs(jnp.where(good, 0, whitened)) <= _ROUNDING * m.shape[-1] * jnp.finfo(m.dtype).eps * scale
    return Root(rows, _over(whitened, _pivots(rows, good)), fits & jnp.all(left, -1))


_ROUNDING = 32


def _pair_root(m, h):
    """Rows and sides of the first half; what the second half adds to the curvature and slope of z_t by itself."""
    size = m.shape[-1] // 2
    rows, whitened, good, scale, fits = _factor(m, h)
    side = _over(whitened, _pivots(rows, good))
    small = _ROUNDING * m.shape[-1] * jnp.finfo(m.dtype).eps * scale
    left = jnp.where(good, 0, whitened)
    sound = fits & jnp.all((jnp.abs(left) <= small)[..., :size], -1)
    low = rows[..., size:, size:]
    slope = jnp.einsum("...ji,...j->...i", low, side[..., size:], precision=PRECISION)
    slope = slope + jnp.where(jnp.abs(left) <= small, 0, left)[..., size:]
    return rows[..., :size, :], side[..., :size], sound, matmul(jnp.swapaxes(low, -1, -2), low), slope


def _factor(m, h):
    """Rows with rowsᵀ rows = m; L⁻¹ h of m = L D Lᵀ, where it counts, and how large its terms are; whether it fits."""
    size, eps = m.shape[-1], jnp.finfo(m.dtype).eps
    factor = ldl(m)
    diagonal = jnp.abs(jnp.diagonal(m, axis1=-2, axis2=-1))
    good = factor.regular & (factor.pivots > _ROUNDING * size * eps * diagonal)
    pivots = jnp.sqrt(jnp.where(good, factor.pivots, 1))
    rows = jnp.where(good, pivots, 0)[..., None] * jnp.swapaxes(factor.lower, -1, -2)
    whitened = jnp.einsum("...ij,...j->...i", triangular_inverse(factor.lower), h, precision=PRECISION)
    scale = jnp.einsum("...ij,...j->...i", jnp.abs(factor.lower), jnp.abs(whitened), precision=PRECISION)
    gap = jnp.abs(m - matmul(jnp.swapaxes(rows, -1, -2), rows))
    bound = 2 * _ROUNDING * size * eps * jnp.sqrt(diagonal[..., :, None]) * jnp.sqrt(diagonal[..., None, :])
    return rows, whitened, good, scale, jnp.all(gap <= bound, (-1, -2))


def _pivots(rows, good):
    return jnp.where(good, jnp.diagonal(rows, axis1=-2, axis2=-1), 0)


def _over(a, b):
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def constant(rows: Rows) -> jax.Array:
    """The constant path [D] that fits the rows best, 0 where they do not say."""
    step = rows.before + rows.after
    pairs = ((rows.first[None], rows.start[None]), (rows.own, rows.seen), (step, rows.step))
    square = sum((jnp.einsum("tki,tkj->ij", a, a, precision=PRECISION) for a, _ in pairs), jnp.zeros_like(rows.first))
    side = sum((jnp.einsum("tki,tk->i", a, b, precision=PRECISION) for a, b in pairs), jnp.zeros_like(rows.start))
    found = root(square, side)
    known = jnp.diagonal(found.rows) > 0
    upper = jnp.where(known[:, None], found.rows, jnp.eye(len(known), dtype=square.dtype))
    return transposed(triangular_inverse(upper.T), jnp.where(known, found.side, 0))


def divided(rows: jax.Array, x: jax.Array) -> jax.Array:
    """(rowsᵀ rows)⁻¹ x, of rows [T, D, D], upper triangular, and x [T, D]; 0 where there is no inverse."""
    regular = jnp.all(jnp.diagonal(rows, axis1=-2, axis2=-1) > 0, -1)[:, None]
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)
    inverse = triangular_inverse(jnp.where(regular[..., None], jnp.swapaxes(rows, -1, -2), eye))
    return jnp.where(regular, transposed(inverse, applied(inverse, x)), 0)


def frame_doubt(g: Apart, zero: Path) -> jax.Array:
    """0, or NaN where g multiplies the `before` or `after` of two different frames: two products with its Hessian."""
    rng = np.random.default_rng(1)
    before, after = (jnp.asarray(rng.uniform(-1, 1, a.shape), a.dtype) for a in (zero.before, zero.after))
    factors = jnp.asarray(rng.uniform(0.5, 2, (zero.after.shape[0], 1)), after.dtype)
    slope = jax.grad(lambda pair: g.value(zero._replace(before=pair[0], after=pair[1])))

    def product(*pair):
        return jnp.stack(jax.jvp(slope, ((zero.before, zero.after),), (pair,))[1])

    plain, scaled = product(before, after), product(factors * before, factors * after)
    gap, scale = jnp.max(jnp.abs(scaled - factors * plain), initial=0), jnp.max(jnp.abs(plain), initial=0)
    return jax.lax.stop_gradient(_unless(gap <= jnp.finfo(after.dtype).eps ** 0.5 * scale, after.dtype))


def hessian_blocks(f: Callable[[jax.Array], jax.Array], z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The Hessian H of a scalar f at z [T, D], where it is block-tridiagonal, from 3 D + 1 products with it.

    Frames three apart share a product, since none of H's rows reads two of them.

    Returns:
      H_{t,t} [T, D, D]; H_{t+1,t} [T − 1, D, D]; 0, or NaN where H is not block-tridiagonal.
    """
    frames, size = z.shape
    colours = min(3, frames)
    own = jnp.asarray(np.arange(frames) % colours == np.arange(colours)[:, None], z.dtype)  # [colours, T]
    probes = (own[:, None, :, None] * jnp.eye(size, dtype=z.dtype)[:, None, :]).reshape(-1, frames, size)
    test = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, z.shape), z.dtype)

    def product(v):
        return jax.jvp(jax.grad(f), (z,), (v,))[1]

    products, seen = jnp.split(jax.vmap(product)(jnp.append(probes, test[None], 0)), [len(probes)])
    columns = products.reshape(colours, size, frames, size)

    def pick(own, columns):
        # a sum over a mask, where an index would be transposed to a slow scatter
        return jnp.transpose(jnp.sum(own[:, None, :, None] * columns, 0), (1, 2, 0))

    diagonal, below = pick(own, columns), pick(own[:, :-1], columns[:, :, 1:])
    return diagonal, below, jax.lax.stop_gradient(_doubt(diagonal, below, test, seen[0]))


def _doubt(diagonal: jax.Array, below: jax.Array, v: jax.Array, product: jax.Array) -> jax.Array:
    """0, or NaN where the product of H with v [T, D] is not that of its blocks."""

    def apply(diagonal, below, v):
        ahead = jnp.einsum("tij,tj->ti", below, v[:-1], precision=PRECISION)
        back = jnp.einsum("tji,tj->ti", below, v[1:], precision=PRECISION)
        inner = jnp.einsum("tij,tj->ti", diagonal, v, precision=PRECISION)
        none = jnp.zeros_like(v[:1])
        return inner + jnp.concatenate([none, ahead]) + jnp.concatenate([back, none])

    gap = jnp.max(jnp.abs(product - apply(diagonal, below, v)))
    scale = jnp.max(apply(jnp.abs(diagonal), jnp.abs(below), jnp.abs(v)))
    return _unless(gap <= jnp.finfo(v.dtype).eps ** 0.5 * scale, v.dtype)


def _unless(good: jax.Array, dtype) -> jax.Array:
    return jnp.where(good, 0, jnp.nan).astype(dtype)
