"""The promises of a model that `check_model` tests: each returns whether it is kept, and what was seen and expected."""

from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._encoder import ExactEncoder, terms
from ._estimators import MOST_VALUES, Automatic, ClosedForm, Enumerated, Estimator, expect_with_entropy, support_size
from ._model import Model, Params
from ._objective import decompose, elbo
from ._polynomial import KINDS, degree
from ._score_function import ScoreFunction
from ._types import PyTree
from .numerics import IMPOSSIBLE

_DRAWS = 2000
_METHODS = ("sample", "log_prob", "entropy", "mode", "mean")
DEFAULT = Automatic(ScoreFunction(4))  # tries a model for which no estimator fits by itself, too
NO_KEY = "not tested: it draws samples, pass key=jax.random.key(0)"


class Trial(NamedTuple):
    """A model, parameters and data to try it on; `dtype` is that of the parameters, `seen` what is known already."""

    model: Model
    params: Params
    ys: PyTree
    key: jax.Array | None
    tolerance: float
    dtype: Any
    estimator: Estimator
    seen: dict[str, Any]

    def traced(self, f: Callable[[Any, PyTree], Any]) -> Any:
        """f(q, y) of the first datum while tracing: nothing is computed. f returns no arrays."""
        out: list[Any] = []
        first = jax.tree.map(lambda a: a[0], self.ys)
        jax.eval_shape(lambda y: out.append(f(self.model.posterior(self.params, y), y)), first)
        return out[0]

    def each(self, f: Callable[..., PyTree], *rest: PyTree) -> PyTree:
        """f(q, y, *rest) of every datum; rest has a leading axis N."""
        return jax.jit(jax.vmap(lambda y, *r: f(self.model.posterior(self.params, y), y, *r)))(self.ys, *rest)

    def terms(self, z: PyTree, y: PyTree) -> tuple[jax.Array, ...]:
        """The terms of log_joint."""
        return terms(self.model.log_joint, self.params.theta, z, y)

    def structure(self) -> list[tuple[int | None, Any]]:
        """Of each term of log_joint its degree in z, and the estimator that is taken.

        Where z = (x, s), of E_{s|x} log_joint + H(s|x), a function of x.
        """

        def of(q, y):
            if _is_nested(q):
                given, estimator = q.given, self.estimator
                functions: list = [lambda x: _summed(lambda s: self.terms((x, s), y), given(x), estimator)]
                q = q.outer
            else:
                count = len(self.terms(q.mean(), y))
                functions = [lambda z, i=i: self.terms(z, y)[i] for i in range(count)]
            return [(degree(f, jax.eval_shape(lambda: moments(q)[1])), self.chosen(f, q)) for f in functions]

        if "structure" not in self.seen:
            self.seen["structure"] = self.traced(of)
        return self.seen["structure"]

    def chosen(self, f: Callable[[PyTree], PyTree], q: Any) -> Estimator:
        """The estimator that takes E_q f."""
        return self.estimator.choose(f, q) if isinstance(self.estimator, Automatic) else self.estimator

    def is_sampled(self) -> bool:
        """Whether a term of log_joint is sampled."""
        return not all(isinstance(e, (ClosedForm, Enumerated)) for _, e in self.structure())

    def lacks_key(self) -> bool:
        """Whether samples are drawn and there is no key."""
        return self.key is None and self.is_sampled()

    def enumerable(self) -> bool:
        """Whether support() lists the values of z, and they are few."""
        if "enumerable" not in self.seen:
            size = self.traced(lambda q, _: support_size(q))
            self.seen["enumerable"] = size is not None and size <= MOST_VALUES
        return self.seen["enumerable"]

    def differ(self, a: Any, b: Any) -> list[int]:
        """The data for which two vectors do not agree."""
        x, y = np.asarray(a), np.asarray(b)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            return _data(~((np.abs(x - y) <= self.tolerance * (1 + np.abs(x))) | (x == y)))


def moments(q: Any, z: PyTree = None) -> tuple[jax.Array, PyTree]:
    """H(q) and E z; of z = (x, s) those of x, and those of s given the x of z (by default the mode)."""
    if not _is_nested(q):
        return q.entropy(), q.mean()
    x, s = q.mode() if z is None else z
    (outer, mean_x), (inner, mean_s) = moments(q.outer, x), moments(q.given(x), s)
    return outer + inner, (mean_x, mean_s)


def _is_nested(q: Any) -> bool:
    return hasattr(q, "outer") and hasattr(q, "given")


def _summed(f: Callable[[PyTree], tuple], q: Any, estimator: Estimator) -> jax.Array:
    inside = estimator if isinstance(estimator, Automatic) else Automatic(estimator)
    values, entropy = expect_with_entropy(f, q, inside, jax.random.key(0))
    return sum(values) + entropy


def _encoder(t: Trial) -> tuple[bool, str]:
    return t.traced(_protocol)


def _protocol(q: Any, y: PyTree) -> tuple[bool, str]:
    del y
    name = type(q).__name__
    if missing := [m for m in _METHODS if not callable(getattr(q, m, None))]:
        return False, f"returned a {name} without the methods {missing}, expected all of {list(_METHODS)}"
    if jax.tree_util.all_leaves([q]):
        return False, f"returned a {name}, which is no pytree; decorate it with jax.tree_util.register_dataclass"
    z = moments(q)[1]
    values = {"mean()": z, "mode()": q.mode(), "sample(key)": q.sample(jax.random.key(0))}
    seen = {method: _describe(value) for method, value in values.items()}
    if len(set(seen.values())) > 1:
        return False, f"values of a {name} differ in structure, shape or dtype: {seen}; expected the same for the three"
    for method, value in {"log_prob(z)": q.log_prob(z), "entropy()": moments(q)[0]}.items():
        if getattr(value, "shape", None) != ():
            return False, f"{method} of a {name} is {_describe(value)}, expected a scalar for one datum; sum its axes"
    return True, f"returns a {name} with z = {seen['mean()']}"


def _log_joint(t: Trial) -> tuple[bool, str]:
    count = t.traced(lambda q, y: len(t.terms(moments(q)[1], y)))
    return True, f"returns {count} floating-point scalar(s) for one datum"


def _structure(t: Trial) -> tuple[bool, str]:
    def taken(estimator):
        if t.estimator is DEFAULT and estimator is DEFAULT.otherwise:
            return f"no estimator fits by itself: give the rules one, {estimator} is tried here"
        return f"{'Automatic() takes' if isinstance(t.estimator, Automatic) else 'the estimator is'} {estimator}"

    return True, "; ".join(f"term {i} is {KINDS[k]} in z, {taken(e)}" for i, (k, e) in enumerate(t.structure()))


def _dtype(t: Trial) -> tuple[bool, str]:
    def strangers(q, y):
        entropy, mean = moments(q)
        values = {"mean()": mean, "entropy()": entropy, "log_joint": t.terms(mean, y)}
        return {
            name: {str(jnp.result_type(a)) for a in jax.tree.leaves(v)} - {str(t.dtype)} for name, v in values.items()
        }

    for name, wrong in t.traced(strangers).items():
        if wrong:
            return False, f"{name} is {sorted(wrong)} where the parameters are {t.dtype}; cast ys or constants"
    return True, f"{t.dtype} throughout"


def _finite(t: Trial) -> tuple[bool, str]:
    values = t.each(lambda q, y: jnp.stack(t.terms(moments(q)[1], y)))
    bad = ~jnp.isfinite(values)
    if not bad.any():
        return True, "log_joint is a number at the posterior means"
    slopes = t.each(lambda q, y: jax.grad(lambda z: reduce(add, t.terms(z, y)))(moments(q)[1]))
    infinite = any(bool(jnp.isinf(a).any()) for a in jax.tree.leaves(slopes))
    return False, (
        f"term {_data(bad.any(0))[0]} of log_joint is {values[bad][0]} at the posterior mean of data "
        f"{_data(bad.any(1))}, expected numbers.{' A coefficient of z is infinite, and 0 · (−∞) is NaN.' * infinite} "
        "Write elbo.safe_log(p) for jnp.log(p), and elbo.LOG_ZERO for -jnp.inf"
    )


def _posterior(t: Trial) -> tuple[bool, str]:
    if t.enumerable():

        def probability(q, y):
            # of an impossible datum there is no posterior
            possible = jnp.max(jax.vmap(lambda z: reduce(add, t.terms(z, y)))(q.support())) > IMPOSSIBLE
            return jnp.sum(jnp.exp(jax.vmap(q.log_prob)(q.support()))), possible

        total, possible = t.each(probability)
        if bad := t.differ(total, jnp.where(possible, 1, total)):
            return False, f"the probabilities of support() sum to {total[bad[0]]:.4g} for data {bad}, expected 1"
    if t.key is None:
        return True, "sample: " + NO_KEY
    count = len(jax.tree.leaves(t.ys)[0])
    keys = jax.random.split(t.key, (count, max(2, _DRAWS // count)))

    def residuals(q, z):
        entropy, mean = moments(q, z)
        return {
            "-log_prob - entropy": -q.log_prob(z) - entropy,
            "z - mean": jax.tree.map(jnp.subtract, z, mean),
        }

    seen = t.each(lambda q, _, ks: jax.vmap(lambda k: residuals(q, q.sample(k)))(ks), keys)
    for name, a in [(name, a) for name, residual in seen.items() for a in jax.tree.leaves(residual)]:
        a = np.asarray(a, np.float64)
        average, error = a.mean((0, 1)).ravel(), a.std((0, 1)).ravel() / (a.shape[0] * a.shape[1]) ** 0.5
        i = np.argmax(np.abs(average) - 5 * error)  # a NaN, where there is one
        # 50 / draws: values of z so rare that they were never drawn
        if not np.abs(average[i]) <= 5 * error[i] + 50 / _DRAWS:
            return False, f"{name} averages {average[i]:.3g} ± {error[i]:.2g} over samples, expected 0: they disagree"
    return True, f"sample, log_prob, entropy and mean agree ({_DRAWS} draws)"


def _objective(t: Trial) -> tuple[bool, str]:
    if t.lacks_key():
        return True, NO_KEY
    # what is sampled is not ln P(y) - KL, but for its expectation
    closed = isinstance(t.model.encoder, ExactEncoder) and not t.is_sampled()
    d = decompose(t.model, estimator=t.estimator)(t.params, t.ys, t.key) if closed else None
    values = np.asarray(elbo(t.model, estimator=t.estimator)(t.params, t.ys, t.key) if d is None else d.elbo)
    if bad := _data(np.isnan(values)):
        return False, f"L is NaN for data {bad}, expected numbers"
    impossible = _data(np.isneginf(values))
    note = f"; data {impossible} are impossible at these parameters" if impossible else ""
    pairs = []
    if d is not None:
        pairs.append((values, d.evidence - d.kl, "ln P(y) - KL in closed form"))
    if t.enumerable() and not t.is_sampled():
        pairs.append((values, t.each(partial(_brute_force, t)), "ln P(y) - KL summed over support()"))
    for ours, theirs, name in pairs:
        if bad := t.differ(ours, np.where(np.isneginf(ours), ours, theirs)):
            seen = f"{ours[bad[0]]:.7g} but {name} = {theirs[bad[0]]:.7g}"
            return False, f"E_q ln P(z, y) + H(q) = {seen} for data {bad}, expected equality"
    tested = " and ".join(name for _, _, name in pairs)
    return True, (f"E_q ln P(z, y) + H(q) = {tested}" if pairs else "finite; not compared with ln P(y) here") + note


def _brute_force(t: Trial, q: Any, y: PyTree) -> jax.Array:
    """ln P(y) − KL(q, P(z|y)) by sums over support()."""
    joint = jax.vmap(lambda z: reduce(add, t.terms(z, y)))(q.support())
    log_q, log_p = jax.vmap(q.log_prob)(q.support()), jax.nn.logsumexp(joint)
    return log_p - jnp.sum(jnp.where(jnp.exp(log_q) > 0, jnp.exp(log_q) * (log_q - joint + log_p), 0))


def _gradients(t: Trial) -> tuple[bool, str]:
    if t.lacks_key():
        return True, NO_KEY

    def total(params):
        values = elbo(t.model, estimator=t.estimator)(params, t.ys, t.key)
        return jnp.sum(jnp.where(jnp.isneginf(values), 0, values))

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total, allow_int=True))(t.params))
    floats = [(jax.tree_util.keystr(path), a) for path, a in gradients if jnp.issubdtype(a.dtype, jnp.floating)]
    if bad := [name for name, a in floats if not jnp.isfinite(a).all()]:
        return False, f"of L are not finite in {bad}; look there for a sqrt, log or division at 0, also inside a where"
    return True, f"of L are finite in {len(floats)} arrays of theta and psi"


def _data(mask: Any) -> list[int]:
    return np.flatnonzero(mask)[:8].tolist()


def _describe(value: PyTree) -> str:
    return str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", value))


NEEDED = (_encoder, _log_joint, _structure)  # without these the others cannot be tested
PROMISES = (*NEEDED, _dtype, _finite, _posterior, _objective, _gradients)
