"""Two latents, of which the second has a posterior in closed form once the first is known."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import jax

from .._types import PyTree
from .derive import StructureError
from .protocol import Posterior


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nested:
    """z = (x, s) with x ~ q(x) and s | x ~ q(s|x): a posterior of x, and one of the rest for each x.

        E f(x, s) = E_x E_{s|x} f(x, s)        H(x, s) = H(x) + E_x H(s|x)

    Both outer expectations are taken by the estimator that the objective is given, at the same x: by default one
    reparameterised sample, exactly where q(x) and f allow. The inner ones are exact where they can be. So a Gaussian
    `outer` and a `ChainPosterior` for the states given x need no sample of the states. `mean()` and `entropy()` have no
    closed form, and raise; the objective does not ask for them.

    Args:
      outer: the posterior of x. To be sampled it must be reparameterised.
      inner: what `conditional` reads, a pytree.
      conditional: `conditional(inner, x)`, the posterior of s given x; a function without state of its own.

    >>> import jax.numpy as jnp
    >>> import elbo
    >>> outer = elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(2))
    >>> q = Nested(outer, jnp.array(2.0), lambda scale, x: elbo.CategoricalPosterior(scale * x))
    >>> q.given(jnp.array([0.0, 1.0])).mean().tolist()
    [0.1192, 0.8808]
    >>> log_joint = lambda theta, z, y: (outer.log_prob(z[0]), z[1] @ (theta * z[0]))
    >>> model = elbo.Model(log_joint, lambda psi, y: Nested(outer, psi, q.conditional))
    >>> elbo.elbo(model)(elbo.Params.tied(1.0), jnp.zeros(3), jax.random.key(0)).shape
    (3,)
    """

    outer: Posterior
    inner: PyTree
    conditional: Callable[[PyTree, PyTree], Posterior] = field(metadata={"static": True})

    def given(self, x: PyTree) -> Posterior:
        """P(s | x, y)."""
        return self.conditional(self.inner, x)

    def sample(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """One draw (x, s)."""
        outer_key, inner_key = jax.random.split(key)
        x = self.outer.sample(outer_key)
        return x, self.given(x).sample(inner_key)

    def log_prob(self, z: tuple[PyTree, PyTree]) -> jax.Array:
        """ln q(x) + ln q(s|x)."""
        x, s = z
        return self.outer.log_prob(x) + self.given(x).log_prob(s)

    def mode(self) -> tuple[PyTree, PyTree]:
        """The most probable x, and the most probable s given it; not always the most probable pair."""
        x = self.outer.mode()
        return x, self.given(x).mode()

    def mean(self) -> NoReturn:
        """Raises `StructureError`: E_x E[s|x] has no closed form."""
        raise StructureError(_no_closed_form("mean()"))

    def entropy(self) -> NoReturn:
        """Raises `StructureError`: E_x H(s|x) has no closed form."""
        raise StructureError(_no_closed_form("entropy()"))


def _no_closed_form(name: str) -> str:
    return (
        f"{name}: a Nested posterior has none in closed form, for it is an expectation over x. Average over x = "
        "q.outer.sample(key), given which q.given(x) has one; elbo.elbo and the rules of optim do so by themselves"
    )
