"""What the objective asks of a posterior, and what it may ask where a posterior offers it."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from .._types import PyTree


@runtime_checkable
class Posterior(Protocol):
    """P(z|y) for one datum: a pytree with these methods. All values in nats.

    What `jax.vmap(encoder, (None, 0))` returns is a batch: the same object, each array with one axis more. Its methods
    are then for jax.vmap too, `jax.vmap(lambda q: q.entropy())(qs)`; called on the batch itself they raise.

    An impossible datum, for which no z is possible, has ln Z = `LOG_ZERO` where ln Z is offered. Its probabilities are
    zero: `mean` is zeros, so are `mode` and `sample`, which indicate nothing, and lists of states or spans are −1. Its
    log probabilities are `LOG_ZERO`: `log_prob`, the score of the best z, and `entropy`, so that the energy, a sum over
    no z, and the entropy are together ln P(y). If only z is impossible, its `log_prob` is `LOG_ZERO` or less. A datum
    that holds a NaN gives NaN, and −1 for integers. What reports to people shows −∞ for all of these log
    probabilities (`evidence`).

    A posterior may offer more, and the automatic estimator looks for it by name:
      - `expect_quadratic(f)`: exact E f(z) of an f quadratic in z (Gaussians);
      - `support()`: every value of z, stacked on a leading axis [S, ...] (small discrete posteriors). It may refuse,
        by a `StructureError` while tracing, a posterior of a shape that it cannot list;
      - `prepared()`: the same posterior, with what `mean` and `entropy` have in common computed once;
      - `log_partition()`: ln Z of the unnormalised potentials that `exact` gave it, for `evidence`;
      - `outer`, a posterior, and `given(x)`, another for each x: z = (x, s), and expectations and the entropy are taken
        over s given x and then over x; `mean` and `entropy` may then raise (`Nested`);
      - `relaxed(key, temperature)`: a differentiable stand-in for `sample(key)`, to which it tends as the temperature
        falls to 0 (discrete posteriors, for `Relaxed`);
      - `reparameterized`: True where `sample` is differentiable in the posterior's parameters.
    """

    def sample(self, key: jax.Array) -> PyTree:
        """One draw of z."""
        ...

    def log_prob(self, z: PyTree) -> jax.Array:
        """ln P(z|y), a scalar."""
        ...

    def entropy(self) -> jax.Array:
        """−E ln P(z|y), a scalar."""
        ...

    def mode(self) -> PyTree:
        """The most probable z."""
        ...

    def mean(self) -> PyTree:
        """E z, where z is an indicator or a vector."""
        ...


class Structure(Protocol):
    """The shape of a latent z, from which `exact` derives the posterior of a log_joint."""

    def posterior(self, log_joint: Callable[[PyTree], jax.Array], y: PyTree = None) -> Posterior:
        """P(z|y) ∝ exp log_joint(z), for the log_joint of one datum as a function of z alone.

        y is that datum, for structures whose size depends on it (the length of a sequence).
        """
        ...


METHODS = ("sample", "log_prob", "entropy", "mode", "mean")


def require_posterior(q: Any, name: str) -> Any:
    """q, called `name`; raises unless it has the methods of a posterior: a distribution of another library has others.

    >>> require_posterior((0.0, 1.0), "model.encoder")
    Traceback (most recent call last):
    TypeError: model.encoder: got a tuple without the methods sample(), log_prob(), entropy(), mode(), mean(), ...
    """
    kind = f"{type(q).__module__}.{type(q).__name__}".removeprefix("builtins.")
    if missing := [method for method in METHODS if not _has(q, method)]:
        fault = f"without the methods {', '.join(f'{m}()' for m in missing)}"
    elif not _takes_key(q.sample):
        fault = "whose sample() does not take a key first"
    else:
        return q
    raise TypeError(
        f"{name}: got a {kind} {fault}, expected a posterior such as elbo.NormalPosterior, an object with the methods "
        "of elbo.Posterior: sample(key), log_prob(z), entropy(), mode() and mean(). Wrap a distribution of another "
        "library in a class of your own that has them"
    )


def _has(q: Any, method: str) -> bool:
    try:
        return callable(getattr(q, method, None))
    except NotImplementedError:  # a property of some distributions of numpyro
        return False


def _takes_key(sample: Callable) -> bool:
    try:
        parameters = list(inspect.signature(sample).parameters.values())
    except (TypeError, ValueError):  # made in C, say
        return True
    positional = parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY
    return bool(positional) and parameters[0].name not in ("sample_shape", "shape")


def prepared(q: Posterior) -> Posterior:
    """q, with what its methods have in common computed once, where it offers that."""
    return q.prepared() if hasattr(q, "prepared") else q


def same_shapes(name: str, z: PyTree, like: PyTree) -> None:
    """Raises unless the leaves of z, the argument of that name, have the shapes of another pytree, one by one."""
    shapes, expected = ([list(jnp.shape(a)) for a in jax.tree.leaves(tree)] for tree in (z, like))
    if shapes != expected:
        raise ValueError(f"{name}: got shapes {shapes}, expected {expected}; use jax.vmap over a batch")
