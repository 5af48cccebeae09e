"""Gaussian latents that form a chain in time: the posterior of a Kalman smoother."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..linalg import matmul, triangular_inverse
from ..numerics import PRECISION
from ..sequence import Padded, padded
from .derive import origin, require_degree, template
from .gaussian_chain_passes import eliminate, solve, spread


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianChain:
    """z [T, D], a Gaussian Markov chain: z_t | z_{t+1} ~ N(loc_t − gain_t (z_{t+1} − loc_{t+1}), root_tᵀ root_t).

    Made by `from_precision`, or by `exact(log_joint, gaussian_chain(D))`. In the padding z is 0 with certainty: it
    counts in no expectation, entropy or density, and is 0 in samples.

    Args:
      loc: E z, [T, D].
      covariance: of each frame, [T, D, D]; kept because every expectation reads it.
      gain: [T, D, D], the last one 0.
      root: [T, D, D], lower triangular with a positive diagonal; the identity in the padding.
      length: number of frames that count, an int scalar in 1..T.

    >>> precision = jnp.array([[[2.0]], [[2.0]]]), jnp.array([[[-1.0]]])  # of two frames: [[2, −1], [−1, 2]]
    >>> q = GaussianChain.from_precision(jnp.array([[1.0], [1.0]]), *precision)
    >>> q.mean()[:, 0].tolist(), q.covariances()[:, 0, 0].tolist(), q.cross_covariances()[:, 0, 0].tolist()
    ([1.0, 1.0], [0.6667, 0.6667], [0.3333])
    """

    loc: jax.Array
    covariance: jax.Array
    gain: jax.Array
    root: jax.Array
    length: jax.Array
    reparameterized: ClassVar[bool] = True

    @classmethod
    def from_precision(
        cls, linear: jax.Array, diagonal: jax.Array, below: jax.Array, length: jax.Array | int | None = None
    ) -> "GaussianChain":
        """P(z) ∝ exp(−½ zᵀ Λ z + linearᵀ z) of the first `length` frames, with a block-tridiagonal precision Λ.

        Where Λ is not positive definite the numbers are NaN. O(T D³); in parallel in time off the CPU.

        Args:
          linear: [T, D].
          diagonal: Λ_{t,t}, [T, D, D], symmetric.
          below: Λ_{t+1,t}, [T − 1, D, D].
          length: int scalar in 1..T, by default T; what stands beyond it is not looked at.

        Raises:
          ValueError: the shapes do not match, or the length is known and not in 1..T.
        """
        frames, size = _check_blocks(linear, diagonal, below)
        length = jnp.asarray(_check_length(frames if length is None else length, frames), jnp.int32)
        mask = Padded(linear, length).mask()
        linear = jnp.where(mask[:, None], linear, 0)
        diagonal = jnp.where(mask[:, None, None], diagonal, jnp.eye(size, dtype=diagonal.dtype))
        below = jnp.concatenate([jnp.zeros_like(diagonal[:1]), jnp.where(mask[1:, None, None], below, 0)])
        root, gain, shift = eliminate(diagonal, below, linear)
        covariance = jnp.where(mask[:, None, None], spread(gain, root), 0)
        return cls(solve(gain, shift), covariance, gain, root, length)

    def covariances(self) -> jax.Array:
        """Cov(z_t), [T, D, D]."""
        return self.covariance

    def cross_covariances(self) -> jax.Array:
        """Cov(z_t, z_{t+1}), [T − 1, D, D]."""
        return -matmul(self.gain[:-1], self.covariance[1:])

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw of z, backward in time; differentiable in the parameters. Padding changes no draw."""

        def noise(t):
            return jax.random.normal(jax.random.fold_in(key, t), self.loc.shape[1:], self.loc.dtype)

        eta = jnp.where(self._mask()[:, None], jax.vmap(noise)(jnp.arange(self.loc.shape[0])), 0)
        return self.loc + solve(self.gain, jnp.einsum("tji,tj->ti", self.root, eta, precision=PRECISION))

    def log_prob(self, z: jax.Array) -> jax.Array:
        """ln P(z) in nats, quadratic in z. O(T D³) for the inverses of the roots."""
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

        f is a scalar, quadratic in z, with Hessian H; 3 D + 1 products with H. NaN where f couples frames further apart
        than one.
        """
        diagonal, below, doubt = hessian_blocks(f, origin(f, self.loc))
        moments = jnp.sum(diagonal * self.covariance)
        crosses = jnp.sum(below * jnp.swapaxes(self.cross_covariances(), -1, -2))
        return f(self.loc) + 0.5 * moments + crosses + doubt

    def _mask(self):
        return Padded(self.loc, self.length).mask()

    def _log_det(self):
        return jnp.sum(jnp.log(jnp.diagonal(self.root, axis1=-2, axis2=-1)))


@dataclass(frozen=True)
class gaussian_chain:  # noqa: N801 - reads as a function: exact(log_joint, gaussian_chain(2))
    """Structure of a sequence of real vectors z [T, D] of which log_joint is a quadratic function: `gaussian_chain(D)`.

    T is that of the datum, an array [T, ...] or `Padded`. log_joint may couple neighbours in time only, z_t with
    z_{t+1}. That is tested when it runs, by one more product with the Hessian: where log_joint couples frames further
    apart, by more than the square root of the machine epsilon times the largest curvature, the posterior is NaN, which
    every rule reports (`info.feasible`) and `check_model` too, and which moves no parameter.

    >>> q = gaussian_chain(1).posterior(lambda z: -0.5 * jnp.sum((z[1:] - z[:-1]) ** 2) - z[0, 0] ** 2, jnp.zeros(3))
    >>> q.covariances()[:, 0, 0].tolist()  # a random walk
    [0.5, 1.5, 2.5]
    """

    size: int

    def posterior(self, log_joint: Callable[[jax.Array], jax.Array], y: Any = None) -> GaussianChain:
        """The exact posterior, with precision −Hessian. Raises unless log_joint is quadratic; NaN if not concave."""
        if not jax.tree.leaves(y):
            raise ValueError("y: got no datum, expected a sequence [T, ...] or a Padded one, which says how long z is")
        sequence = padded(y)
        z = template(log_joint, (sequence.frames, self.size))
        require_degree(
            *(log_joint, z, 2),
            "P(z|y) is not a Gaussian chain. Use an encoder network that returns "
            "elbo.GaussianChain.from_precision(...), with vae_step (estimator Reparameterized())",
        )
        diagonal, below, doubt = hessian_blocks(log_joint, z)
        return GaussianChain.from_precision(jax.grad(log_joint)(z) + doubt, -diagonal, -below, sequence.length)


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
    return jnp.where(gap <= jnp.finfo(v.dtype).eps ** 0.5 * scale, 0, jnp.nan).astype(v.dtype)


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
    if not isinstance(length, jax.core.Tracer) and not 1 <= int(length) <= frames:
        raise ValueError(f"length: got {int(length)}, expected 1..{frames}: a sequence has at least one frame")
    return length
