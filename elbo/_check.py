"""Does a new model keep its promises? A report in plain words, made on a few data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._batch import batch_length
from ._estimators import Estimator
from ._family_checks import families
from ._model import Model, Params
from ._model_checks import DEFAULT, NEEDED, PROMISES, Trial
from ._types import PyTree
from .numerics import widen


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
    model: Model,
    params: Params,
    ys: PyTree,
    *,
    key: jax.Array | None = None,
    tolerance: float | None = None,
    estimator: Estimator | None = None,
) -> Report:
    """Tests what a model promises on a few data: shapes, dtypes, structure, posterior, the objective and its gradient.

    Where theta holds families, also that log_joint reads their log_prob alone, and what each of them promises EM: that
    log_likelihood of its statistics moves as ln P does, that maximize is the argmax, and that an EM step does not fall.

    Args:
      model: the pair (log_joint, encoder).
      params: parameters to try it at.
      ys: a pytree with a leading axis N, say 8 data, all of them usable.
      key: for the tests that draw samples; without it they are left out, and the report says so.
      tolerance: relative; by default the root of the machine epsilon of the parameters' dtype.
      estimator: how to take expectations, as given to the rules; by default `Automatic`, with the score function for
        terms that no estimator fits by itself.

    Returns:
      `Report`. A wrong model raises nothing.

    Raises:
      TypeError, ValueError: an argument on which no model could be tested.

    >>> import elbo
    >>> log_joint = lambda theta, z, y: z @ (theta * y)
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> report = check_model(model, elbo.Params(jnp.ones(2), jnp.zeros(2)), jnp.ones(3), key=jax.random.key(0))
    >>> report.ok, str(report).splitlines()[2]
    (True, 'ok    structure: term 0 is affine in z, Automatic() takes ClosedForm()')
    """
    if not isinstance(model, Model) or not isinstance(params, Params):
        got = f"{type(model).__name__}, {type(params).__name__}"
        raise TypeError(f"model, params: got {got}, expected elbo.Model and elbo.Params")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: got {tolerance}, expected a positive number or None")
    batch_length(ys)
    ys = widen(jax.tree.map(jnp.asarray, ys))
    if unusable := jnp.flatnonzero(~jax.vmap(model.usable)(ys)).tolist():
        raise ValueError(f"ys: data {unusable} are not usable (model.usable(y) is False), expected data without them")
    floats = [a for a in jax.tree.leaves(params) if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    dtype = jnp.result_type(*floats) if floats else jnp.zeros(()).dtype
    tolerance = tolerance or float(jnp.finfo(dtype).eps) ** 0.5
    trial = Trial(model, params, ys, key, tolerance, dtype, estimator or DEFAULT, {})
    checks: list[Check] = []
    for promise in (*PROMISES, families):
        try:
            ok, message = promise(trial)
        except Exception as error:  # whatever the model's own code raises is a finding
            ok, message = False, f"raised {type(error).__name__}: {error}"
        checks.append(Check(promise.__name__.strip("_"), ok, message))
        if promise in NEEDED and not ok:
            break
    return Report(tuple(checks))
