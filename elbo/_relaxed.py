"""Relaxed discrete samples (Gumbel-softmax) and the straight-through gradient: low variance, and biased."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ._estimators import CHOICES, require_draws
from ._types import PyTree
from .numerics import require_number
from .posteriors import Posterior, StructureError


@dataclass(frozen=True)
class Relaxed:
    """The mean of f at relaxed samples: the argmax of a draw is a softmax at a temperature, differentiable in q.

    BIASED: the gradient is that of E f(relaxed z), and f is read between the indicators, where it need not mean
    anything. With the temperature the bias falls to zero and the variance grows without bound. With straight_through f
    is taken at the hard sample, so that the value is unbiased, and the gradient in z there is passed on to the relaxed
    one: biased as well.

    Maddison, Mnih & Teh 2017; Jang, Gu & Poole 2017; straight-through: Bengio, Léonard & Courville 2013.

    Args:
      temperature: > 0; 0.1 to 1 is usual. It may be traced, so as to fall while one trains; one that is not positive
        then gives NaN.
      straight_through: take f at the hard sample.
      samples: draws per datum.

    >>> import elbo
    >>> q = elbo.CategoricalPosterior(jnp.log(jnp.array([1.0, 3.0])))
    >>> f = lambda z: z[0] * z[1]  # zero at every indicator, not between them
    >>> key = jax.random.key(0)
    >>> Relaxed(1.0)(f, q, key) > 0.05, Relaxed(0.01)(f, q, key) < 1e-6, Relaxed(1.0, straight_through=True)(f, q, key)
    (Array(True, dtype=bool), Array(True, dtype=bool), Array(0., dtype=float32))
    """

    temperature: float | jax.Array = 0.5
    straight_through: bool = False
    samples: int = 1

    def __post_init__(self):
        require_number("temperature", self.temperature, lambda t: t > 0, "a positive number")
        if self.samples < 1:
            raise ValueError(f"samples: got {self.samples}, expected at least one draw per datum")

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None) -> PyTree:
        """E f of relaxed samples."""
        if not hasattr(q, "relaxed"):
            raise StructureError(
                f"estimator: Relaxed() needs a posterior with relaxed(key, temperature), got {type(q).__name__}. "
                f"Choose one of: {CHOICES}"
            )
        keys = require_draws(key, self.samples, "Relaxed()")
        values = jax.vmap(lambda k: f(self._sample(q, k)))(keys)
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), values)

    def _sample(self, q: Any, key: jax.Array) -> PyTree:
        # of a traced number only NaN can say that it is none
        soft = q.relaxed(key, jnp.where(jnp.asarray(self.temperature) > 0, self.temperature, jnp.nan))
        if not self.straight_through:
            return soft
        # the order matters: soft − soft is exactly zero, and what is left is the hard sample to the last bit
        return jax.tree.map(lambda h, s: stop_gradient(h) + (s - stop_gradient(s)), q.sample(key), soft)
