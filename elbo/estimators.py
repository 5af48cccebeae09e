"""E_q f(z): exact where the structure of f allows, by enumeration, or from reparameterised samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from .polynomial import KINDS, degree
from .posteriors import Posterior, StructureError, prepared

Tree = Any
CHOICES = (
    "Exact() (f affine in z, or quadratic and q Gaussian), Enumerated() (q has support()), Reparameterized(samples) "
    "(q Gaussian), ScoreFunction(samples) (any q; unbiased), Relaxed(temperature) (q has relaxed(); biased)"
)


class Estimator(Protocol):
    """A way to take an expectation under a posterior."""

    def __call__(self, f: Callable[[Tree], Tree], q: Posterior, key: jax.Array | None) -> Tree:
        """E_q f(z) for f that returns a pytree of scalars."""
        ...


@dataclass(frozen=True)
class Exact:
    """The exact expectation: f(E z) for f affine in z, the posterior's own `expect_quadratic` for f quadratic in z.

    Raises `StructureError` while tracing when f has neither structure.

    >>> import elbo
    >>> Exact()(lambda z: jnp.sum(z**2), elbo.Normal(jnp.zeros(2), jnp.zeros(2)), None).tolist()
    2.0
    """

    def __call__(self, f: Callable[[Tree], Tree], q: Posterior, key: jax.Array | None = None) -> Tree:
        """E_q f(z)."""
        order = _degree(f, q)
        if order == 1:
            return f(q.mean())
        if order == 2 and hasattr(q, "expect_quadratic"):
            # one scalar at a time; the compiler shares what they have in common
            leaves, treedef = jax.tree.flatten(jax.eval_shape(f, q.mean()))
            return jax.tree.unflatten(treedef, [q.expect_quadratic(_leaf(f, i)) for i in range(len(leaves))])
        raise StructureError(
            f"log_joint: is {KINDS[order]} in z, so its expectation under a {type(q).__name__} has no closed form and "
            f"taking it at the mean would be silently wrong. Pass estimator= one of: {CHOICES}"
        )


@dataclass(frozen=True)
class Enumerated:
    """Σ_z q(z) f(z) over `q.support()`.

    >>> import elbo
    >>> q = elbo.Categorical(jnp.log(jnp.array([1.0, 3.0])))
    >>> Enumerated()(lambda z: jnp.exp(z[1]), q, None).tolist()  # (1 + 3e) / 4
    2.2887
    """

    def __call__(self, f: Callable[[Tree], Tree], q: Posterior, key: jax.Array | None = None) -> Tree:
        """E_q f(z)."""
        if not hasattr(q, "support"):
            raise StructureError(f"estimator: Enumerated() needs a posterior with support(), got {type(q).__name__}")
        values = q.support()
        weights = jnp.exp(jax.vmap(q.log_prob)(values))
        # 0 · (−∞) is 0, in the gradient of the weights too
        return jax.tree.map(lambda v: jnp.sum(weights * jnp.where(weights > 0, v, 0)), jax.vmap(f)(values))


@dataclass(frozen=True)
class Reparameterized:
    """The mean of f over samples z = g_Ψ(y, η), differentiable in Ψ (Kingma & Welling 2014).

    Args:
      samples: draws per datum.

    >>> import elbo
    >>> q = elbo.Normal(jnp.zeros(1), jnp.full(1, -20.0))
    >>> Reparameterized(4)(lambda z: jnp.cos(z[0]), q, jax.random.key(0)).tolist()
    1.0
    """

    samples: int = 1

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples: got {self.samples}, expected at least one draw per datum")

    def __call__(self, f: Callable[[Tree], Tree], q: Posterior, key: jax.Array | None) -> Tree:
        """E_q f(z), unbiased."""
        key = require_key(key, "Reparameterized()")
        if not getattr(q, "reparameterized", False):
            raise StructureError(
                f"estimator: samples of {type(q).__name__} are not differentiable in its parameters (no attribute "
                f"`reparameterized = True`), so their gradient would be silently wrong. Choose one of: {CHOICES}"
            )
        if self.samples == 1:
            return f(q.sample(key))
        values = jax.vmap(lambda k: f(q.sample(k)))(jax.random.split(key, self.samples))
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), values)


@dataclass(frozen=True)
class Automatic:
    """The best of the others that f's structure and the posterior allow: exact, else enumerated, else one sample.

    Raises `StructureError` while tracing when none fits and there is no `otherwise`.

    Args:
      otherwise: what to take where none of these fits (a network that reads the whole path of a chain): an estimator
        such as `ScoreFunction(4)`. The other terms of log_joint stay exact.

    >>> import elbo
    >>> q = elbo.Categorical(jnp.zeros(2))
    >>> Automatic()(lambda z: (z[0], jnp.exp(z[0])), q, None)[0].tolist()
    0.5
    """

    otherwise: Estimator | None = None

    def __call__(self, f: Callable[[Tree], Tree], q: Posterior, key: jax.Array | None = None) -> Tree:
        """E_q f(z)."""
        return self.choose(f, q)(f, q, key)

    def choose(self, f: Callable[[Tree], Tree], q: Posterior) -> Estimator:
        """The estimator that fits f and q."""
        order = _degree(f, q)
        if order == 1 or (order == 2 and hasattr(q, "expect_quadratic")):
            return Exact()
        if hasattr(q, "support"):
            return Enumerated()
        if getattr(q, "reparameterized", False):
            return Reparameterized()
        if self.otherwise is not None:
            return self.otherwise
        raise StructureError(
            f"log_joint: is {KINDS[order]} in z, and no estimator fits a {type(q).__name__} posterior by itself. "
            f"Pass estimator= one of: {CHOICES}"
        )


def expect_with_entropy(
    f: Callable[[Tree], tuple], q: Posterior, estimator: Estimator, key: jax.Array | None
) -> tuple[tuple, jax.Array]:
    """E_q of each term of a tuple-valued f, and H(q): the two parts of the objective, of one datum.

    Where z = (x, s) and q offers `outer` and `given`, E f = E_x E_{s|x} f and H(q) = H(x) + E_x H(s|x), both at the
    same x. The estimator is for x; s is left to `Automatic`.
    """
    q = prepared(q)
    if not (hasattr(q, "outer") and hasattr(q, "given")):
        return expect_terms(f, q, estimator, key), q.entropy()
    outer_key, inner_key = (None, None) if key is None else jax.random.split(key)

    def conditioned(x):
        # one term: taken apart, each would run the pass over s again
        return (expect_with_entropy(lambda s: f((x, s)), q.given(x), Automatic(), inner_key),)

    ((values, inner),), outer = expect_with_entropy(conditioned, q.outer, estimator, outer_key)
    return values, outer + inner


def expect_terms(f: Callable[[Tree], tuple], q: Posterior, estimator: Estimator, key: jax.Array | None) -> tuple:
    """E_q of each term of a tuple-valued f, each by itself; terms that are sampled share their samples."""
    count = len(jax.eval_shape(f, q.mean()))
    return tuple(estimator(_term(f, i), q, key) for i in range(count))


def require_key(key: jax.Array | None, name: str) -> jax.Array:
    """The key, of an estimator called `name`; raises if there is none."""
    if key is None:
        raise ValueError(f"key: got None, but {name} draws samples; pass key=jax.random.key(seed)")
    return key


def require_draws(key: jax.Array | None, samples: int, name: str) -> jax.Array:
    """A key for each of several samples; raises if there is none to split."""
    return jax.random.split(require_key(key, name), samples)


def _term(f: Callable[[Tree], tuple], i: int) -> Callable[[Tree], Tree]:
    return lambda z: f(z)[i]  # a pytree itself where statistics come with the value


def _leaf(f: Callable[[Tree], Tree], i: int) -> Callable[[Tree], jax.Array]:
    return lambda z: jax.tree.leaves(f(z))[i]


def _degree(f: Callable[[Tree], Tree], q: Posterior) -> int | None:
    return degree(f, jax.eval_shape(q.mean))
