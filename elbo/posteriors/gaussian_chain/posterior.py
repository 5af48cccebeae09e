"""Gaussian latents that form a chain in time: the posterior of a Kalman smoother."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..._sequence import Padded, as_padded
from ...linalg import matmul, triangular_inverse
from ...numerics import PRECISION
from ..derive import origin, require_degree, template
from ..protocol import same_shapes
from ..structured.batching import all_of_batch
from ..structured.frames import require_length
from .blocks import constant, divided, frame_doubt, hessian_blocks, least_squares, potentials
from .parts import Apart, Path, apart
from .passes import (
    Eliminated,
    Rows,
    applied,
    eliminate,
    eliminate_precision,
    solve,
    spread,
    transposed,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianChainPosterior:
    """z [T, D], a Gaussian Markov chain: z_t | z_{t+1} ~ N(loc_t − gain_t (z_{t+1} − loc_{t+1}), root_tᵀ root_t).

    Made by `from_precision`, or by `exact(log_joint, gaussian_chain(D))`. In the padding z is 0 with certainty: it
    counts in no expectation, entropy or density, and is 0 in samples.

    Args:
      centre: [D], a point amid the frames; away: [T, D]: E z_t = loc_t = centre + away_t.
      half: roots of the covariances of the frames, Cov(z_t) = half_tᵀ half_t, [T, D, D], upper triangular; kept because
        every expectation reads them.
      gain: [T, D, D], the last one 0.
      root: [T, D, D], lower triangular with a positive diagonal; the identity in the padding.
      length: number of frames that count, an int scalar in 1..T.
      away_rest, half_rest: [T, D] and [T, D, D], what away and half lack where frame t follows frame t − 1, less than
        their rounding: by how little a state moves that hardly moves.

    >>> precision = jnp.array([[[2.0]], [[2.0]]]), jnp.array([[[-1.0]]])  # of two frames: [[2, −1], [−1, 2]]
    >>> q = GaussianChainPosterior.from_precision(jnp.array([[1.0], [1.0]]), *precision)
    >>> q.mean()[:, 0].tolist(), q.covariances()[:, 0, 0].tolist(), q.cross_covariances()[:, 0, 0].tolist()
    ([1.0, 1.0], [0.6667, 0.6667], [0.3333])
    """

    centre: jax.Array
    away: jax.Array
    half: jax.Array
    gain: jax.Array
    root: jax.Array
    length: jax.Array
    away_rest: jax.Array
    half_rest: jax.Array
    reparameterized: ClassVar[bool] = True

    @classmethod
    def from_precision(
        cls, linear: jax.Array, diagonal: jax.Array, below: jax.Array, length: jax.Array | int | None = None
    ) -> "GaussianChainPosterior":
        """P(z) ∝ exp(−½ zᵀ Λ z + linearᵀ z) of the first `length` frames, with a block-tridiagonal precision Λ.

        Where Λ is not positive definite the numbers are NaN. O(T D³); in parallel in time off the CPU.

        Args:
          linear: [T, D].
          diagonal: Λ_{t,t}, [T, D, D], symmetric.
          below: Λ_{t+1,t}, [T − 1, D, D].
          length: int scalar in 1..T, by default T; what stands beyond it is ignored.

        Raises:
          ValueError: the shapes do not match, or the length is known and not in 1..T.
        """
        frames, size = _check_blocks(linear, diagonal, below)
        length = jnp.asarray(_check_length(frames if length is None else length, frames), jnp.int32)
        mask = Padded(linear, length).mask()
        linear = jnp.where(mask[:, None], linear, 0)
        diagonal = jnp.where(mask[:, None, None], diagonal, jnp.eye(size, dtype=diagonal.dtype))
        below = jnp.concatenate([jnp.zeros_like(diagonal[:1]), jnp.where(mask[1:, None, None], below, 0)])
        return cls._from_elimination(eliminate_precision(diagonal, below, linear), jnp.zeros_like(linear[0]), length)

    @classmethod
    def _from_elimination(cls, seen: Eliminated, centre: jax.Array, length: jax.Array) -> "GaussianChainPosterior":
        away = solve(seen.gain, seen.shift)
        half = jnp.where(Padded(away, length).mask()[:, None, None], spread(seen.gain, seen.root), 0)
        return cls(centre, away, half, seen.gain, seen.root, length, jnp.zeros_like(away), jnp.zeros_like(half))

    @property
    def loc(self) -> jax.Array:
        """E z, [T, D]."""
        return jnp.where(self._mask()[:, None], self.centre + self.away, 0)

    def covariances(self) -> jax.Array:
        """Cov(z_t), [T, D, D]."""
        return matmul(jnp.swapaxes(self.half, -1, -2), self.half)

    def cross_covariances(self) -> jax.Array:
        """Cov(z_t, z_{t+1}), [T − 1, D, D]."""
        self._mask()
        return -matmul(self.gain[:-1], self.covariances()[1:])

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw of z, backward in time; differentiable in the parameters. Padding changes no draw."""

        def noise(t):
            return jax.random.normal(jax.random.fold_in(key, t), self.loc.shape[1:], self.loc.dtype)

        eta = jnp.where(self._mask()[:, None], jax.vmap(noise)(jnp.arange(self.loc.shape[0])), 0)
        return self.loc + solve(self.gain, jnp.einsum("tji,tj->ti", self.root, eta, precision=PRECISION))

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln P(z) in nats, quadratic in z. O(T D³) for the inverses of the roots."""
        same_shapes("z", z, self.away)
        mask = self._mask()[:, None]
        away = jnp.where(mask, z - self.loc, 0)
        after = jnp.concatenate([away[1:], jnp.zeros_like(away[:1])])
        residual = away + jnp.einsum("tij,tj->ti", self.gain, after, precision=PRECISION)
        eta = jnp.einsum("tji,tj->ti", triangular_inverse(self.root), residual, precision=PRECISION)
        return -0.5 * jnp.sum(jnp.square(eta) + jnp.where(mask, math.log(2 * math.pi), 0)) - self._log_det()

    def entropy(self) -> jax.Array:
        """½ ln det 2πe Σ of the frames that count."""
        each = jnp.where(self._mask()[:, None], 0.5 + 0.5 * math.log(2 * math.pi), jnp.zeros_like(self.loc))
        return self._log_det() + jnp.sum(each)

    def mode(self) -> jax.Array:
        """loc."""
        return self.loc

    def mean(self) -> jax.Array:
        """loc."""
        return self.loc

    def expect_quadratic(self, f: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """E f(z) = f(loc) + ½ Σ_t tr H_{t,t} Cov(z_t) + Σ_t tr H_{t+1,t} Cov(z_t, z_{t+1}), exactly.

        f is a scalar, quadratic in z, with Hessian H. What reads each frame by itself costs 3 D + 1 products with H,
        what reads neighbours, as z[:-1] and z[1:], 2 D second derivatives along roots of their joint covariance: no
        digits are lost where these move together and f says by how little. NaN where f couples frames further apart.
        """
        self._mask()
        zeros = origin(f, self.loc)
        g = apart(f, zeros)
        if g is None:
            return f(self.loc) + self._trace(f, zeros)
        zero = Path.of(zeros)
        # pairs are read about a constant path: there a state that hardly moves is exactly at rest
        still = Path.of(self.centre + zeros)._replace(own=self.loc, first=self.loc[:1])
        total = g.value(still)
        if g.own:
            total = total + self._trace(lambda own: g.value(zero._replace(own=own)), zeros)
        if g.first:
            rest = zero._replace(first=self.away_rest[:1])
            along = [(zero._replace(first=v[None]),) * 2 for v in self.half[0]]
            total = total + jax.jvp(g.value, (still,), (rest,))[1] + 0.5 * _curvature(g, zero, [(rest, rest), *along])
        if g.pairs:
            mean = zero._replace(before=self.away[:-1], after=self.away[1:])
            rest = zero._replace(after=self.away_rest[1:])
            slopes = (jax.jvp(g.value, (still,), (v,))[1] for v in (mean, rest))
            along = [(mean, mean), (mean, rest), (mean, rest), (rest, rest)]
            for both, lacking, alone in self._pairs(zero):
                along += [(both, both), (both, lacking), (both, lacking), (lacking, lacking), (alone, alone)]
            total = total + sum(slopes) + 0.5 * _curvature(g, zero, along) + frame_doubt(g, zero)
        return total

    def _pairs(self, zero: Path) -> Iterator[tuple[Path, Path, Path]]:
        """D times three paths: z_t and z_{t+1} less their means are independent combinations of them, for every t.

        The first moves both frames, the second is the rest of the first, the third moves z_t alone.
        """
        for half, lacking, root in zip(
            *(jnp.moveaxis(a, 1, 0) for a in (self.half, self.half_rest, self.root)), strict=True
        ):
            before = -jnp.einsum("tij,tj->ti", self.gain[:-1], half[1:], precision=PRECISION)
            yield (
                zero._replace(before=before, after=half[1:]),
                zero._replace(after=lacking[1:]),
                zero._replace(before=root[:-1]),
            )

    def _trace(self, f: Callable[[jax.Array], jax.Array], zeros: jax.Array) -> jax.Array:
        """½ tr H Cov(z) by the blocks of H."""
        diagonal, below, doubt = hessian_blocks(f, zeros)
        moments = jnp.sum(diagonal * self.covariances())
        return 0.5 * moments + jnp.sum(below * jnp.swapaxes(self.cross_covariances(), -1, -2)) + doubt

    def _mask(self):
        """Which frames count, bool [T]; raises on a batch."""
        return Padded(self.away, self.length).mask()

    def _log_det(self):
        return jnp.sum(jnp.log(jnp.diagonal(self.root, axis1=-2, axis2=-1)))


@dataclass(frozen=True)
class gaussian_chain:  # noqa: N801 - reads as a function: exact(log_joint, gaussian_chain(2))
    """Structure of a sequence of real vectors z [T, D] of which log_joint is a quadratic function: `gaussian_chain(D)`.

    T is that of the datum, an array [T, ...] or `Padded`. log_joint may couple neighbours in time only, z_t with
    z_{t+1}. That is tested when it runs, by two more products with the Hessian: where log_joint couples frames further
    apart, by more than the square root of the machine epsilon times the largest curvature, the posterior is NaN, which
    every rule reports (`info.feasible`) and `check_model` too, and which moves no parameter.

    Write what couples neighbours in terms of z[1:] and z[:-1], what starts the chain in terms of z[0], and what sees a
    frame in terms of z: these are then kept apart, and their curvatures may differ by any number of digits. A step
    that is nearly certain (noise 1e-8 of the spread of z, also in float32) is then as good as any other. Where
    log_joint multiplies what it reads in two of these ways, or where one of them is not concave by itself, their
    curvatures are added, and digits of the smaller are lost.

    >>> q = gaussian_chain(1).posterior(lambda z: -0.5 * jnp.sum((z[1:] - z[:-1]) ** 2) - z[0, 0] ** 2, jnp.zeros(3))
    >>> q.covariances()[:, 0, 0].tolist()  # a random walk
    [0.5, 1.5, 2.5]
    """

    size: int

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> GaussianChainPosterior:
        """The exact posterior, with precision −Hessian. Raises unless log_joint is quadratic; NaN if not concave."""
        if not jax.tree.leaves(y):
            raise ValueError("y: got no datum, expected a sequence [T, ...] or a Padded one, which says how long z is")
        sequence = as_padded(y)
        z = template(log_joint, (sequence.frames, self.size))
        require_degree(
            *(log_joint, z, 2),
            "P(z|y) is not a Gaussian chain. Use an encoder network that returns "
            "elbo.posteriors.GaussianChainPosterior.from_precision(...), with vae_step (estimator Reparameterized())",
        )
        g = apart(log_joint, z)
        if g is None:
            diagonal, below, doubt = hessian_blocks(log_joint, z)
            return GaussianChainPosterior.from_precision(
                jax.grad(log_joint)(z) + doubt, -diagonal, -below, sequence.length
            )
        return _posterior(g, z, sequence)


def _posterior(g: Apart, z: jax.Array, sequence: Padded) -> GaussianChainPosterior:
    """P(z) ∝ exp g(Path.of(z)) of the frames that count; z [T, D] is 0."""
    mask = sequence.mask()
    parts = potentials(g, z)
    # numbers far from 0 lose digits: all that follows is about a point amid the data
    centre = jax.lax.stop_gradient(constant(least_squares(parts.masked(mask))[0]))
    still = Path.of(centre + z)
    parts = parts._replace(slope=jax.grad(g.value)(still)).masked(mask)
    rows, fits = least_squares(parts)

    def added():
        diagonal, below, linear = parts.summed()
        return eliminate_precision(diagonal, jnp.concatenate([jnp.zeros_like(diagonal[:1]), below]), linear)

    # under vmap too only one of the two is computed
    apart = all_of_batch(fits)
    seen = jax.lax.cond(apart, lambda: eliminate(rows), added)
    q = GaussianChainPosterior._from_elimination(seen._replace(shift=seen.shift + parts.doubt), centre, sequence.length)
    rests = (jnp.where(apart & mask.reshape(-1, *(1,) * (a.ndim - 1)), a, 0) for a in _rests(g, still, q, seen, rows))
    away_rest, half_rest = jax.lax.stop_gradient(tuple(rests))
    return dataclasses.replace(q, away_rest=away_rest, half_rest=half_rest)


def _rests(g: Apart, still: Path, q: GaussianChainPosterior, seen: Eliminated, rows: Rows):
    """How far the steps of away and half, and the start, are from what they should be, as g itself measures them.

    At the mean, what the frames before z_{t+1} say of it pulls as much as what is said by it and those after it.
    """
    zero, slope = Path.of(jnp.zeros_like(q.away)), jax.grad(g.value)
    force = transposed(seen.past, applied(seen.past, q.away) - seen.told)[1:]
    at, along = jax.jvp(slope, (still,), (zero._replace(before=q.away[:-1], after=q.away[1:]),))
    steps = divided(rows.after[:-1], force + at.after + along.after)
    moved = divided(rows.after[:-1], force)
    others = transposed(rows.own, rows.seen - applied(rows.own, q.away))
    others = others.at[:-1].add(-transposed(rows.before[:-1], applied(rows.after[:-1], moved)))
    start = divided(rows.first[None], others[:1] + slope(still._replace(first=q.loc[:1])).first)
    # a start of which little is said has digits enough, and the noise of what follows is much to it
    small = 16 * jnp.finfo(start.dtype).eps * jnp.max(jnp.abs(q.loc[:1]))
    start = jnp.where(jnp.abs(start) <= small, start, 0)

    def column(before, after):
        curved = jax.jvp(slope, (zero,), (zero._replace(before=before, after=after),))[1]
        return divided(rows.after[:-1], transposed(seen.past[1:], applied(seen.past[1:], after)) + curved.after)

    both = [path for path, _, _ in q._pairs(zero)]
    columns = jax.vmap(column, out_axes=1)(
        *(jnp.stack([getattr(p, name) for p in both]) for name in ("before", "after"))
    )
    return jnp.concatenate([start, steps]), jnp.pad(columns, ((1, 0), (0, 0), (0, 0)))


def _curvature(g: Apart, zero: Path, along: list[tuple[Path, Path]]) -> jax.Array:
    """Σ uᵀ H v over pairs of paths, forward over forward: what is squared is squared, and no large numbers cancel."""

    def second(u, v):
        return jax.jvp(lambda z: jax.jvp(g.value, (z,), (u,))[1], (zero,), (v,))[1]

    left, right = (jax.tree.map(lambda *a: jnp.stack(a), *paths) for paths in zip(*along, strict=True))
    return jnp.sum(jax.vmap(second)(left, right))


def _check_blocks(linear: jax.Array, diagonal: jax.Array, below: jax.Array) -> tuple[int, int]:
    if linear.ndim != 2 or not jnp.issubdtype(linear.dtype, jnp.floating):
        raise ValueError(f"linear: got {linear.dtype}{list(linear.shape)}, expected floating point [T, D]")
    frames, size = linear.shape
    for name, block, count in (("diagonal", diagonal, frames), ("below", below, frames - 1)):
        if block.shape != (count, size, size):
            raise ValueError(
                f"{name}: got {list(block.shape)}, expected {[count, size, size]} for linear {[frames, size]}; use "
                "jax.vmap over a batch of sequences"
            )
    return frames, size


def _check_length(length: Any, frames: int) -> Any:
    require_length("length", length, 1, frames, "the number of frames; drop empty sequences")
    return length
