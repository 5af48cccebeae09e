"""The score function estimator (REINFORCE) with a leave-one-out baseline: for posteriors of any kind, unbiased."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ._estimators import require_draws
from ._types import PyTree
from .posteriors import Posterior


@dataclass(frozen=True)
class ScoreFunction:
    """The mean of f over S samples of q, with a gradient that is unbiased although no sample is differentiable.

        ∇ E_q f = E ∇f + E f ∇ln q ≈ 1/S Σ_i [∇f(z_i) + (f(z_i) − b_i) ∇ln q(z_i)],   b_i = 1/(S−1) Σ_{j≠i} f(z_j)

    The baseline b_i knows nothing of z_i, so it takes variance away and adds no bias. The value is the plain mean of f.
    Needs nothing of q but `sample` and `log_prob`: f may be any function of z. Gradients only: a second derivative
    through q is not that of the expectation. Where q draws a z that is impossible the value is about `LOG_ZERO`, for L
    is −∞.

    Williams 1992; Kool, van Hoof & Welling, "Buy 4 REINFORCE samples, get a baseline for free!", 2019.

    Args:
      samples: S, draws per datum; at least two with a baseline. Costs S evaluations of f and their gradients.
      baseline: whether to take b_i from the other samples; otherwise b_i = 0.

    >>> import elbo
    >>> q = elbo.CategoricalPosterior(jnp.zeros((3, 2)))  # a group: no enumeration
    >>> f = lambda z: jnp.sum(z[0] * z[1] * z[2])  # whether all three are equal
    >>> slope = jax.grad(lambda q, key: ScoreFunction(4)(f, q, key))
    >>> jax.vmap(slope, (None, 0))(q, jax.random.split(jax.random.key(0), 100)).logits.shape
    (100, 3, 2)
    """

    samples: int = 4
    baseline: bool = True

    def __post_init__(self):
        least = 2 if self.baseline else 1
        if self.samples < least:
            raise ValueError(
                f"samples: got {self.samples}, expected at least {least} draws per datum"
                + (", for the baseline of one is the mean of the others; or pass baseline=False" if least > 1 else "")
            )

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None) -> PyTree:
        """E_q f(z), unbiased."""
        keys = require_draws(key, self.samples, "ScoreFunction()")
        z = stop_gradient(jax.vmap(q.sample)(keys))
        log_q = jax.vmap(q.log_prob)(z)
        score = log_q - stop_gradient(log_q)  # zero, with the slope of ln q

        def average(values):
            factor = score.reshape(-1, *(1,) * (values.ndim - 1))
            return jnp.mean(values + self._signal(values) * factor, axis=0)

        return jax.tree.map(average, jax.vmap(f)(z))

    def _signal(self, values: jax.Array) -> jax.Array:
        """f(z_i) − b_i, [S, ...]."""
        values = stop_gradient(values)
        if not self.baseline:
            return values
        return (values - jnp.mean(values, axis=0)) * (self.samples / (self.samples - 1))
