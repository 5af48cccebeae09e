"""What the objective asks of a posterior, and what it may ask where a posterior offers it."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax

Tree = Any


@runtime_checkable
class Posterior(Protocol):
    """P(z|y) for one datum: a pytree with these methods; batches are made by vmap. All values in nats.

    A posterior may offer more, and the automatic estimator looks for it by name:
      - `expect_quadratic(f)`: exact E f(z) of an f quadratic in z (Gaussians);
      - `support()`: every value of z, stacked on a leading axis [S, ...] (small discrete posteriors);
      - `prepared()`: the same posterior, with what `mean` and `entropy` have in common computed once;
      - `log_partition()`: ln Z of the unnormalised potentials that `exact` gave it, for `evidence`;
      - `outer`, a posterior, and `given(x)`, another for each x: z = (x, s), and expectations and the entropy are taken
        over s given x and then over x; `mean` and `entropy` may then raise (`Nested`);
      - `relaxed(key, temperature)`: a differentiable stand-in for `sample(key)`, to which it tends as the temperature
        falls to 0 (discrete posteriors, for `Relaxed`);
      - `reparameterized`: True where `sample` is differentiable in the posterior's parameters.
    """

    def sample(self, key: jax.Array) -> Tree:
        """One draw of z."""
        ...

    def log_prob(self, z: Tree) -> jax.Array:
        """ln P(z|y), a scalar."""
        ...

    def entropy(self) -> jax.Array:
        """−E ln P(z|y), a scalar."""
        ...

    def mode(self) -> Tree:
        """The most probable z."""
        ...

    def mean(self) -> Tree:
        """E z, where z is an indicator or a vector."""
        ...


class Structure(Protocol):
    """The shape of a latent z, from which `exact` derives the posterior of a log_joint."""

    def posterior(self, log_joint: Callable[[Tree], jax.Array], y: Tree = None) -> Posterior:
        """P(z|y) ∝ exp log_joint(z), for the log_joint of one datum as a function of z alone.

        y is that datum, for structures whose size depends on it (the length of a sequence).
        """
        ...


def prepared(q: Posterior) -> Posterior:
    """q, with what its methods have in common computed once, where it offers that."""
    return q.prepared() if hasattr(q, "prepared") else q
