"""Does a new model keep its promises? A report in plain words, made on a few data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .estimators import Automatic, Enumerated, Reparameterized
from .exact import ExactEncoder, terms
from .linalg import cholesky
from .model import Model, Params
from .objective import batch_length, decompose, elbo, evidence
from .polynomial import degree
from .posteriors import MultivariateNormal

Tree = Any
_DRAWS = 2000
_METHODS = ("sample", "log_prob", "entropy", "mode", "mean")
_NO_KEY = "not tested: pass key=jax.random.key(0)"


class Check(NamedTuple):
    """One promise: its name, whether it is kept (or cannot be tested here), what was seen and what was expected."""

    name: str
    ok: bool
    message: str


class Report(NamedTuple):
    """What `check_model` saw; `print` it."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no promise is broken."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        return "\n".join(f"{'ok   ' if c.ok else 'WRONG'} {c.name}: {c.message}" for c in self.checks)


def check_model(
    model: Model, params: Params, ys: Tree, *, key: jax.Array | None = None, tolerance: float | None = None
) -> Report:
    """Tests the promises of a model on a few data: shapes, dtypes, structure, posterior, the objective and its gradient.

    Args:
      model: the pair (log_joint, encoder).
      params: parameters to try it at.
      ys: a pytree with a leading axis N, say 8 data, all of them usable.
      key: for the tests of `sample`; without it they are left out, and the report says so.
      tolerance: relative; by default the root of the machine epsilon of the parameters' dtype.

    Returns:
      `Report`. A wrong model raises nothing.

    Raises:
      TypeError, ValueError: an argument on which no model could be tested.

    >>> import elbo
    >>> log_joint = lambda theta, z, y: z @ (theta * y)
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> report = check_model(model, elbo.Params(jnp.ones(2), jnp.zeros(2)), jnp.ones(3), key=jax.random.key(0))
    >>> report.ok, str(report).splitlines()[2]
    (True, 'ok    structure: term 0 is affine in z, Automatic() takes Exact()')
    """
    if not isinstance(model, Model) or not isinstance(params, Params):
        got = f"{type(model).__name__}, {type(params).__name__}"
        raise TypeError(f"model, params: got {got}, expected elbo.Model and elbo.Params")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: got {tolerance}, expected a positive number or None")
    batch_length(ys)
    ys = jax.tree.map(jnp.asarray, ys)
    if unusable := _where(~jax.vmap(model.usable)(ys)):
        raise ValueError(f"ys: data {unusable} are not usable (model.usable(y) is False), expected data without them")
    floats = [a.dtype for a in map(jnp.asarray, jax.tree.leaves(params)) if jnp.issubdtype(a.dtype, jnp.floating)]
    dtype = jnp.result_type(*floats) if floats else jnp.zeros(()).dtype
    trial = _Trial(model, params, ys, key, tolerance or float(jnp.finfo(dtype).eps) ** 0.5, dtype)
    checks = [_attempt(trial, _encoder), _attempt(trial, _log_joint)]
    if all(check.ok for check in checks):
        rest = (_structure, _dtype, _finite, _samples, _normalised, _objective, _gradients)
        checks += [_attempt(trial, test) for test in rest]
    return Report(tuple(checks))


class _Wrong(Exception):
    """A broken promise."""


@dataclass(frozen=True)
class _Trial:
    model: Model
    params: Params
    ys: Tree
    key: jax.Array | None
    tolerance: float
    dtype: Any

    def terms(self, z: Tree, y: Tree) -> tuple:
        return terms(self.model.log_joint, self.params.theta, z, y)

    def first(self) -> tuple[Any, Tree, list[Callable[[Tree], jax.Array]]]:
        """The first datum's posterior, the datum, and its terms as functions of z."""
        y = jax.tree.map(lambda a: a[0], self.ys)
        q = self.model.encoder(self.params.psi, y)
        count = len(jax.eval_shape(lambda: self.terms(q.mean(), y)))
        return q, y, [lambda z, i=i: self.terms(z, y)[i] for i in range(count)]

    def each(self, f: Callable[[Any, Tree], Tree]) -> Tree:
        """f(q, y) of every datum."""
        return jax.jit(jax.vmap(lambda y: f(self.model.encoder(self.params.psi, y), y)))(self.ys)

    def draw(self, f: Callable[[Any, Tree], Tree], draws: int = _DRAWS) -> Tree:
        """f(q, z) of draws from the posterior of every datum, [N, draws // N, ...]."""
        keys = jax.random.split(self.key, max(2, draws // batch_length(self.ys)))
        return self.each(lambda q, _: jax.vmap(lambda k: f(q, q.sample(k)))(keys))

    def enumerable(self) -> bool:
        """Whether support() lists the values of z."""
        try:
            return bool(jax.eval_shape(self.first()[0].support))
        except (AttributeError, ValueError):
            return False

    def close(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return (jnp.abs(a - b) <= self.tolerance * (1 + jnp.abs(a))) | (a == b)
