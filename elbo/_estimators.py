"""E_q f(z): exact where the structure of f allows, by enumeration, or from reparameterised samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ._polynomial import KINDS, Dependence, dependence
from ._types import PyTree
from .posteriors import Posterior, StructureError, prepared
from .posteriors.derive import met
from .posteriors.protocol import require_posterior

CHOICES = (
    "ClosedForm() (f affine in z, or quadratic and q Gaussian), Enumerated() (q.support() lists z), "
    "Reparameterized(samples) (q Gaussian), ScoreFunction(samples) (any q; unbiased), Relaxed(temperature) (q has "
    "relaxed(); biased), Automatic(otherwise) (one of the last two, and only for the terms that need it)"
)
MOST_VALUES = 1024
"""How many values of z `Automatic` enumerates at most; `Enumerated()`, asked for, takes any number."""


class Estimator(Protocol):
    """A way to take an expectation under a posterior."""

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None) -> PyTree:
        """E_q f(z) for f that returns a pytree of scalars."""
        ...


@dataclass(frozen=True)
class ClosedForm:
    """The exact expectation: f(E z) for f affine in z, the posterior's own `expect_quadratic` for f quadratic in z.

    Raises `StructureError` while tracing when f has neither structure.

    >>> import elbo
    >>> ClosedForm()(lambda z: jnp.sum(z**2), elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(2)), None).tolist()
    2.0
    """

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None = None) -> PyTree:
        """E_q f(z)."""
        found = _dependence(f, q)
        if not _is_exact(found, q):
            raise StructureError(
                f"log_joint: is {_kind(found)}, so its expectation under a {type(q).__name__} has no closed form "
                f"and taking it at the mean would be silently wrong. Pass estimator= one of: {CHOICES}"
            )
        if found.degree == 2:
            # one scalar at a time; the compiler shares what they have in common
            leaves, treedef = jax.tree.flatten(jax.eval_shape(f, q.mean()))
            gaussian: Any = q
            return jax.tree.unflatten(treedef, [gaussian.expect_quadratic(_leaf(f, i)) for i in range(len(leaves))])
        return f(q.mean())  # values only: whatever rule their derivatives follow


@dataclass(frozen=True)
class Enumerated:
    """Σ_z q(z) f(z) over `q.support()`.

    >>> import elbo
    >>> q = elbo.CategoricalPosterior(jnp.log(jnp.array([1.0, 3.0])))
    >>> Enumerated()(lambda z: jnp.exp(z[1]), q, None).tolist()  # (1 + 3e) / 4
    2.2887
    """

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None = None) -> PyTree:
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
    >>> q = elbo.NormalPosterior(jnp.zeros(1), jnp.full(1, -20.0))
    >>> Reparameterized(4)(lambda z: jnp.cos(z[0]), q, jax.random.key(0)).tolist()
    1.0
    """

    samples: int = 1

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples: got {self.samples}, expected at least one draw per datum")

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None) -> PyTree:
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

    z is enumerated where `support()` lists at most 1,024 values of this posterior's shape. Raises `StructureError`
    while tracing when none fits and there is no `otherwise`.

    Args:
      otherwise: what to take where none of these fits (a network that reads the whole path of a chain): an estimator
        such as `ScoreFunction(4)`. The other terms of log_joint stay exact.

    >>> import elbo
    >>> q = elbo.CategoricalPosterior(jnp.zeros(2))
    >>> Automatic()(lambda z: (z[0], jnp.exp(z[0])), q, None)[0].tolist()
    0.5
    """

    otherwise: Estimator | None = None

    def __call__(self, f: Callable[[PyTree], PyTree], q: Posterior, key: jax.Array | None = None) -> PyTree:
        """E_q f(z)."""
        chosen = self.choose(f, q)
        if key is None and isinstance(chosen, Reparameterized):
            kind = _kind(_dependence(f, q))
            raise StructureError(
                f"key: got None, but log_joint is {kind}, so Automatic() takes Reparameterized() for a "
                f"{type(q).__name__}, which draws samples; pass key=jax.random.key(seed). Other estimators: {CHOICES}"
            )
        return chosen(f, q, key)

    def choose(self, f: Callable[[PyTree], PyTree], q: Posterior) -> Estimator:
        """The estimator that fits f and q."""
        found = _dependence(f, q)
        if _is_exact(found, q):
            return ClosedForm()
        size = support_size(q)
        if size is not None and size <= MOST_VALUES:
            return Enumerated()
        if getattr(q, "reparameterized", False):
            return Reparameterized()
        if self.otherwise is not None:
            return self.otherwise
        many = "" if size is None else f" (its support() lists {size:,} values; {MOST_VALUES:,} are few)"
        raise StructureError(
            f"log_joint: is {_kind(found)}, and no estimator fits a {type(q).__name__} posterior by "
            f"itself{many}. Pass estimator= one of: {CHOICES}"
        )


def support_size(q: Posterior) -> int | None:
    """How many values `q.support()` lists, or None if it cannot: there is none, or it refuses a q of this shape.

    Costs tracing time only.

    >>> import elbo
    >>> support_size(elbo.BernoulliPosterior(jnp.zeros(3))), support_size(elbo.BernoulliPosterior(jnp.zeros(99)))
    (8, None)
    """
    listed = getattr(q, "support", None)
    if not callable(listed):
        return None
    try:
        values = jax.eval_shape(listed)
    except (ValueError, NotImplementedError):  # a StructureError is a ValueError
        return None
    return jax.tree.leaves(values)[0].shape[0]


def expect_with_entropy(
    f: Callable[[PyTree], tuple], q: Posterior, estimator: Estimator, key: jax.Array | None
) -> tuple[tuple, jax.Array]:
    """E_q of each term of a tuple-valued f, and H(q): the two parts of the objective, of one datum.

    Where z = (x, s) and q offers `outer` and `given`, E f = E_x E_{s|x} f and H(q) = H(x) + E_x H(s|x), both at the
    same x. The estimator is for x; s is left to `Automatic`, which takes the same estimator where no other fits.
    """
    q = prepared(require_posterior(q, "model.encoder"))
    if isinstance(estimator, type) or not callable(estimator):
        raise TypeError(f"estimator: got {estimator!r}, expected an estimator. Choose one of: {CHOICES}")
    if not (hasattr(q, "outer") and hasattr(q, "given")):
        entropy = q.entropy()
        if jnp.shape(entropy) != ():
            raise ValueError(
                f"model.encoder: entropy() of its {type(q).__name__} is {list(jnp.shape(entropy))} for one datum, "
                "expected a scalar; sum it, and log_prob(z), over the axes of z"
            )
        return expect_terms(f, q, estimator, key), entropy
    outer_key, inner_key = (None, None) if key is None else jax.random.split(key)
    inside = estimator if isinstance(estimator, Automatic) else Automatic(estimator)

    def conditioned(x):
        # one term: taken apart, each would run the pass over s again
        return (expect_with_entropy(lambda s: f((x, s)), q.given(x), inside, inner_key),)

    ((values, inner),), outer = expect_with_entropy(conditioned, q.outer, estimator, outer_key)
    return values, outer + inner


def expect_terms(f: Callable[[PyTree], tuple], q: Posterior, estimator: Estimator, key: jax.Array | None) -> tuple:
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


def _term(f: Callable[[PyTree], tuple], i: int) -> Callable[[PyTree], PyTree]:
    return lambda z: f(z)[i]  # a pytree itself where statistics come with the value


def _leaf(f: Callable[[PyTree], PyTree], i: int) -> Callable[[PyTree], jax.Array]:
    return lambda z: jax.tree.leaves(f(z))[i]


def _dependence(f: Callable[[PyTree], PyTree], q: Posterior) -> Dependence:
    return dependence(f, jax.eval_shape(q.mean))


def _is_exact(found: Dependence, q: Posterior) -> bool:
    """Whether E f is f(E z), which reads values of f, or what `expect_quadratic` makes of its derivatives."""
    return found.degree == 1 or (found.degree == 2 and not found.obstacle and hasattr(q, "expect_quadratic"))


def _kind(found: Dependence) -> str:
    return f"{KINDS[found.degree]} in z{met(found.obstacle)}"
