"""What `check_model` tests of the families of Θ: that EM may be run on them, and that each keeps its own promises."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._encoder import terms
from ._estimators import expect_with_entropy
from ._family import is_family, with_tap
from ._model_checks import NO_KEY, Trial, moments
from ._tap_checks import require_taps
from ._types import PyTree
from .numerics import IMPOSSIBLE
from .posteriors import StructureError, prepared

_LOOK = "Look at log_likelihood, and at the contract and the residuals that its log_prob gives elbo.extend.tapped"


def families(t: Trial) -> tuple[bool, str]:
    """Whether log_joint takes the log_prob of families and nothing else, and each family is what `elbo.Family` says."""
    nodes = jax.tree_util.tree_leaves_with_path(t.params.theta, is_leaf=is_family)
    names = [f"{type(node).__name__} at theta{jax.tree_util.keystr(path)}" for path, node in nodes if is_family(node)]
    if not names:
        return True, "theta holds none; em_step and vem_step need them, eg_step and vae_step do not"
    try:
        affine = t.traced(lambda q, y: require_taps(t.model.log_joint, t.params.theta, moments(q)[1], y))
    except StructureError as error:
        return False, str(error)
    if t.lacks_key():
        return True, NO_KEY
    start = [node for _, node in nodes if is_family(node)]
    broken = {name: text for name, f in zip(names, start, strict=True) if (text := shape_complaint(f))}
    broken = broken or _Families(t, names, start, affine, t.each(lambda q, _: prepared(q))).complaints()
    message = "; ".join(f"{name}: {text}" for name, text in broken.items())
    return not broken, message or f"{len(names)} in theta, of which log_joint reads log_prob alone; EM climbs"


def shape_complaint(family: Any) -> str:
    """What is wrong with the shapes and dtypes that a family's methods return; "" if nothing."""

    def described(tree):
        return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", jax.eval_shape(lambda: tree))

    zero = jax.eval_shape(family.zero_statistics)
    value = jax.eval_shape(family.log_likelihood, zero)
    if getattr(value, "shape", None) != ():
        return f"log_likelihood returns {described(value)}, expected a scalar"
    empty = jax.eval_shape(family.empty, zero)
    batch = getattr(family, "batch_shape", getattr(empty, "shape", None))
    if not jnp.issubdtype(getattr(empty, "dtype", float), jnp.bool_) or empty.shape != batch:
        return f"empty returns {described(empty)}, expected bool{list(batch or ())}, the batch of components"
    new, old = described(jax.eval_shape(family.maximize, zero)), described(with_tap(family, None))
    if jax.tree.flatten(new) != jax.tree.flatten(old):
        return f"maximize returns {new}, expected what it was called on, {old}. Look at zero_statistics too"
    return ""


@dataclass(frozen=True)
class _Families:
    """The families of a trial.

    Attributes:
      affine: whether log_joint is affine in the values of their log_prob.
      posteriors: of the data, with a leading axis N; they stay as they are.
    """

    trial: Trial
    names: list[str]
    start: list
    affine: bool
    posteriors: PyTree

    def complaints(self) -> dict[str, str]:
        """Of each family that breaks a promise, the first."""
        rng, measure, start = np.random.default_rng(0), jax.jit(self.measure), self.start
        seen = measure(start, [f.zero_statistics() for f in start])
        closed = jax.jit(self.closed_forms)(start, seen["statistics"])
        # rounding of sums: by default 200 times the machine epsilon of what is summed
        tolerance = 200 * self.trial.tolerance**2 * (1 + float(seen["size"]))

        def at(i, family):
            return measure([family if j == i else f for j, f in enumerate(start)], seen["statistics"])

        def likelihood(i):
            other = self.moved(start[i], seen["steepness"][i], rng)
            m = at(i, other)
            change = float(m["total"] - seen["total"])
            told = float(m["likelihood"][i] - seen["likelihood"][i])
            if not abs(change - told) <= tolerance + 30 * self.trial.tolerance * abs(told):
                return (
                    f"from one set of parameters to another ln P moves by {change:.4g}, and log_likelihood of its "
                    f"statistics by {told:.4g}, expected the same. {_LOOK}"
                )
            rebased, measured = float(m["rebased"][i]), float(m["likelihood"][i])
            if not abs(rebased - measured) <= tolerance + 30 * self.trial.tolerance * abs(told):
                return (
                    f"statistics that rebase() brings into other coordinates have log_likelihood {rebased:.6g}, those "
                    f"measured there {measured:.6g}, expected the same"
                )
            return ""

        def maximum(i):
            best = closed["best"][i]
            m = at(i, best)
            before, after = (float(a["total"] + a["imaginary"][i]) for a in (seen, m))
            if not after >= before - tolerance:
                return f"maximize lowers ln P from {before:.6g} to {after:.6g}, expected its argmax"
            if not self.affine or (hasattr(best, "floored") and bool(jnp.any(best.floored()))):
                return ""
            for name, slope, steepness in _free(best, m["slope"][i], m["steepness"][i]):
                bound = 30 * self.trial.tolerance * (steepness + 0.1 * np.max(steepness, initial=0))
                if not (np.abs(slope) <= bound).all():
                    return f"at what maximize returns ln P has a slope in {name}, expected none: the argmax"
            aside = at(i, self.moved(best, m["steepness"][i], rng))
            higher = float(aside["total"] + aside["imaginary"][i])
            if not higher <= after + tolerance:
                return f"beside what maximize returns ln P is {higher:.6g}, there {after:.6g}, expected the argmax"
            return ""

        def rest(i):
            kept, twin, own = closed["kept"][i], float(closed["twin"][i]), float(closed["own"][i])
            if not closed["empty"][i]:
                return "empty(zero_statistics()) is not True, expected that no data are none"
            if not jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), kept, start[i])):
                return "maximize(zero_statistics()) changes it, expected that an empty component keeps its parameters"
            if not abs(twin - own) <= self.trial.tolerance * (1 + abs(own)):
                return (
                    f"what maximize makes of its own statistics_of() expects ln p = {twin:.6g}, itself {own:.6g}, "
                    "expected the same family again"
                )
            return ""

        found = [(likelihood(i) if self.affine else "") or maximum(i) or rest(i) for i in range(len(start))]
        if any(found):
            return {name: text for name, text in zip(self.names, found, strict=True) if text}
        before, after = float(seen["total"]), float(measure(closed["new"], seen["statistics"])["total"])
        if after >= before - tolerance:
            return {}
        return {"one EM step": f"takes ln P from {before:.6g} to {after:.6g}, expected no fall"}

    def measure(self, families: list, before: list) -> dict:
        """What parameters give at the posteriors of the trial.

        total: E_q ln P(z, y) of all data that are possible; size: the sum of their absolute values. Of each family:
        its statistics; likelihood: log_likelihood of these; rebased: of the statistics `before`; imaginary: E ln p of
        one datum drawn from the first parameters; slope, of total and imaginary, in each field, and steepness, the sum
        of the absolute values that it is the sum of.
        """
        t = self.trial
        zeros = [f.zero_statistics() for f in families]

        def datum(families, taps, q, y, key):
            def joint(z):
                def tapped_terms(taps):
                    return terms(t.model.log_joint, self.theta(map(with_tap, families, taps)), z, y)

                return tuple(zip(*jax.jvp(tapped_terms, (zeros,), (taps,)), strict=True))

            values, slopes = zip(*expect_with_entropy(joint, q, t.estimator, key)[0], strict=True)
            possible = sum(values) > IMPOSSIBLE
            return jnp.where(possible, sum(values), 0), jnp.where(possible, sum(slopes), 0)

        keys = None if t.key is None else jax.random.split(t.key, len(jax.tree.leaves(t.ys)[0]))
        every, data = partial(jax.vmap, in_axes=(None, None, 0, 0, 0)), (self.posteriors, t.ys, keys)
        one = jax.value_and_grad(lambda *args: datum(*args)[0], allow_int=True)
        values, slopes = every(one)(families, zeros, *data)
        statistics = jax.grad(lambda taps: jnp.sum(every(datum)(families, taps, *data)[1]))(zeros)

        def imaginary(family, reference):
            if not hasattr(family, "statistics_of"):
                return jnp.zeros(())
            return family.log_likelihood(family.statistics_of(reference))

        def rebased(family, own, before, reference):
            return family.log_likelihood(family.rebase(before, reference) if hasattr(family, "rebase") else own)

        drawn = [
            jax.value_and_grad(imaginary, allow_int=True)(*pair) for pair in zip(families, self.start, strict=True)
        ]
        pull = [slope for _, slope in drawn]
        return {
            "total": jnp.sum(values),
            "size": jnp.sum(jnp.abs(values)),
            "statistics": statistics,
            "likelihood": [f.log_likelihood(s) for f, s in zip(families, statistics, strict=True)],
            "rebased": [rebased(*args) for args in zip(families, statistics, before, self.start, strict=True)],
            "imaginary": [value for value, _ in drawn],
            "slope": jax.tree.map(lambda a, b: jnp.sum(a, 0) + b, slopes, pull),
            "steepness": jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a), 0) + jnp.abs(b), slopes, pull),
        }

    def moved(self, family: Any, steepness: Any, rng: np.random.Generator) -> Any:
        """The family with each number changed at random, by what moves ln P by up to 0.3 nats for each datum."""
        leaves = jax.tree.leaves(family)
        size = 0.3 * len(jax.tree.leaves(self.trial.ys)[0])

        def move(name, value, steep):
            if not name:
                return value
            steep = np.asarray(steep, float)
            top = np.max(steep, initial=0)
            scale = size / np.maximum(steep, 0.01 * top) if top > 0 else 0.3
            return jnp.asarray(np.asarray(value, float) + scale * rng.uniform(-1, 1, np.shape(value)), value.dtype)

        moved = map(move, _names(family), leaves, jax.tree.leaves(steepness))
        return jax.tree.unflatten(jax.tree.structure(family), moved)

    def theta(self, families) -> PyTree:
        """Theta with these families."""
        rest = iter(families)
        theta = self.trial.params.theta
        return jax.tree.map(lambda leaf: next(rest) if is_family(leaf) else leaf, theta, is_leaf=is_family)

    def closed_forms(self, families: list, statistics: list) -> dict:
        """The M steps of each family: from the data, from those and an imaginary datum, from none, from itself."""

        def imaginary(f, s):
            return jax.tree.map(jnp.add, s, f.statistics_of(f)) if hasattr(f, "statistics_of") else s

        def expected(f, reference):
            return f.log_likelihood(f.statistics_of(reference)) if hasattr(f, "statistics_of") else jnp.zeros(())

        def twin(f):
            return f.maximize(f.statistics_of(f)) if hasattr(f, "statistics_of") else f

        pairs = list(zip(families, statistics, strict=True))
        return {
            "new": [f.maximize(s) for f, s in pairs],
            "best": [f.maximize(imaginary(f, s)) for f, s in pairs],
            "kept": [f.maximize(f.zero_statistics()) for f in families],
            "empty": [jnp.all(f.empty(f.zero_statistics())) for f in families],
            "own": [expected(f, f) for f in families],
            "twin": [expected(twin(f), f) for f in families],
        }


def _free(family: Any, *alike: Any) -> list[tuple]:
    """The name of each field that EM moves, and what trees like the family hold there, as float64."""
    rows = zip(_names(family), *map(jax.tree.leaves, alike), strict=True)
    return [(name, *(np.asarray(v, float) for v in values)) for name, *values in rows if name]


def _names(family: Any) -> list[str]:
    """The name of the field that each leaf of a family belongs to, "" where EM does not move it."""
    fixed = getattr(family, "fixed", ())
    paths = jax.tree_util.tree_leaves_with_path(family)
    names = [(getattr(path[0], "name", str(path[0])), jnp.result_type(leaf)) for path, leaf in paths]
    return ["" if name in fixed or not jnp.issubdtype(dtype, jnp.floating) else name for name, dtype in names]
