"""When is EM fast? The fraction of missing information r at the maximum says so, before anything is timed.

One knob, the missing information, is turned in mixtures, chains, factor models and counts, and real sets are added.
Each method has the same starts, coordinates and float64. Its cost is counted in E steps: one for a step of EM, one for
a gradient, one for each trial of a line search, one for each evaluation of an accelerated rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.tree_utils import tree_get
from rich.table import Table
from sklearn.datasets import load_iris

import elbo
from elbo import optim
from elbo.models import factor_analysis, hmm, mixture
from elbo.models.families import Categorical, Poisson

from .. import datasets

NEAR = 1e-6
"""How near to the end of EM is there, nats a datum."""
STARTS = 5
RATES = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Learning rates of Adam; the best is taken for each problem, and the others are what it cost to find it."""
STEPS = {"EM": 8000, "Anderson": 400, "SQUAREM": 1200, "L-BFGS": 150, "Adam": 1500}

# What was expected, written down before the first run.
RATE_ERROR, RATE_RANGE = 0.05, 0.9999
"""EM's measured rate is ln r within 5 % where r < 0.9999."""
CROSSING = 2.0
"""One r* parts the problems where EM needs fewer E steps than the best gradient method from the others: within a factor
of 2 in 1 − r."""
SLOW, FEWER, OVERHEAD = 0.99, 8.0, 1.1
"""Anderson mixing needs 8 times fewer evaluations (median) where r > 0.99, and elsewhere never 1.1 times as many."""


class Problem(NamedTuple):
    """A model and its data; `starts` has a leading axis of starts."""

    name: str
    kind: str
    model: elbo.Model
    starts: elbo.Params
    ys: Any
    weights: Any = None


class Row(NamedTuple):
    """What came out: medians over the starts.

    Attributes:
      name, kind: of the problem.
      rate: r, of the ends of EM that are fixed points.
      measured: EM's rate, from the gains of its last steps.
      costs: by method, E steps to `NEAR` of EM's end; infinite where most starts do not get there.
      elsewhere: by method, the share of starts that end lower than EM by more than 1e-4 nats a datum.
      learning_rate: Adam's best.
    """

    name: str
    kind: str
    rate: float
    measured: float
    costs: dict[str, float]
    elsewhere: dict[str, float]
    learning_rate: float


METHODS = tuple(STEPS)


def problems() -> list[Problem]:
    """The knob in four kinds of model, and real sets."""
    return [
        *(two_gaussians(apart, size) for size, gaps in ((1, (6, 4, 3, 2, 1.5)), (8, (6, 4, 3))) for apart in gaps),
        *(two_poissons(gap) for gap in (8, 4, 2)),
        *(chain(apart) for apart in (6.0, 3.0, 2.0)),
        *(factors(noise) for noise in (0.3, 1.0, 2.0)),
        *real(),
    ]


def keys(seed: int) -> jax.Array:
    """Keys of the starts."""
    return jax.random.split(jax.random.key(seed), STARTS)


def two_gaussians(apart: float, size: int) -> Problem:
    """Two Gaussians so many standard deviations apart."""
    rng = np.random.default_rng(int(10 * apart) + size)
    shift = apart / np.sqrt(size) * (rng.random((500, 1)) < 0.4)
    ys = jnp.asarray(rng.normal(size=(500, size)) + shift)
    starts = jax.vmap(lambda k: mixture.init(k, ys, 2, covariance_type="tied"))(keys(0))
    return Problem(f"Gaussians {apart:g}σ, D={size}", "mixture", mixture.model(2), starts, ys)


def counts(name: str, ys: jax.Array, weights: jax.Array, low: float, high: float) -> Problem:
    """A mixture of two Poissons, from starts around two rates."""

    def start(key):
        a, b, c = jax.random.uniform(key, (3,), minval=0.7, maxval=1.3)
        share = jnp.stack([0.4 * c, 1 - 0.4 * c])
        return elbo.Params.tied(
            mixture.Theta(Categorical.create(share), Poisson.create(jnp.array([[low], [high]]) * jnp.array([[a], [b]])))
        )

    return Problem(name, "counts", mixture.model(2), jax.vmap(start)(keys(1)), ys, weights)


def two_poissons(gap: float) -> Problem:
    """Rates 2 and 2 + gap."""
    rng = np.random.default_rng(int(gap))
    drawn = rng.poisson(np.where(rng.random(1000) < 0.4, 2.0, 2.0 + gap))
    weights = np.bincount(drawn, minlength=30).astype(float)
    ys = jnp.arange(len(weights), dtype=float)[:, None]
    return counts(f"Poissons 2 and {2 + gap:g}", ys, jnp.asarray(weights), 1.5, 2.5 + gap)


def chain(apart: float) -> Problem:
    """A hidden Markov model of two states whose emissions overlap."""
    rng = np.random.default_rng(int(apart))
    states = np.cumsum(rng.random((4, 150)) < 0.2, 1) % 2
    ys = jnp.asarray(rng.normal(size=(4, 150, 1)) + apart * states[..., None])
    starts = jax.vmap(lambda k: hmm.init(k, ys, 2))(keys(2))
    return Problem(f"HMM {apart:g}σ", "chain", hmm.model(2), starts, ys)


def factors(noise: float) -> Problem:
    """One factor behind six columns."""
    rng = np.random.default_rng(int(10 * noise))
    ys = jnp.asarray(rng.normal(size=(300, 1)) @ rng.normal(size=(1, 6)) + noise * rng.normal(size=(300, 6)))
    starts = jax.vmap(lambda k: factor_analysis.init(k, ys, 1))(keys(3))
    return Problem(f"factor, noise {noise:g}", "factors", factor_analysis.model(1), starts, ys)


def real() -> list[Problem]:
    """The bundled sets, and one of scikit-learn's."""
    geyser, iris = jnp.asarray(datasets.faithful()), jnp.asarray(load_iris().data)
    geyser = (geyser - geyser.mean(0)) / geyser.std(0)
    quakes = jnp.asarray(datasets.earthquakes()[1], float)[None, :, None]
    deaths = jnp.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1.0])

    def gaussian(name, ys, size, kind):
        starts = jax.vmap(lambda k: mixture.init(k, ys, size, covariance_type=kind))(keys(4))
        return Problem(name, "real", mixture.model(size), starts, ys)

    rates = Poisson.create(jnp.array([[10.0], [25.0]]))
    return [
        gaussian("Old Faithful, K=2", geyser, 2, "full"),
        gaussian("Old Faithful, K=3, tied", geyser, 3, "tied"),
        gaussian("iris, K=3, tied", iris, 3, "tied"),
        gaussian("iris, K=2", iris, 2, "full"),
        counts("deaths (Hasselblad)", jnp.arange(10.0)[:, None], deaths, 1.0, 2.5),
        Problem(
            "earthquakes, HMM K=2",
            "real",
            hmm.model(2),
            jax.vmap(lambda k: hmm.init(k, quakes, 2, family=rates))(keys(5)),
            quakes,
        ),
        Problem(
            "iris, one factor",
            "real",
            factor_analysis.model(1),
            jax.vmap(lambda k: factor_analysis.init(k, iris, 1))(keys(6)),
            iris,
        ),
    ]


PIECES = 24


def compute(tell: Callable[[str], None], chosen: list[Problem] | None = None) -> list[Row]:
    """Runs every method on every problem; `tell` is called before each problem."""
    with jax.enable_x64(True):
        rows, given = [], problems() if chosen is None else chosen
        assert chosen is not None or len(given) == PIECES
        for problem in given:
            tell(problem.name)
            rows.append(_row(problem))
        return rows


def _climb(problem: Problem, rule: optim.Rule, steps: int, cost: Callable[[Any], Any], rates=None) -> tuple:
    """The highest objective so far and the E steps so far, before each step, [..., steps]; and the last parameters."""

    def one(start, rate):
        state = rule.init(start)
        if rate is not None:
            state.hyperparams["learning_rate"] = jnp.asarray(rate, state.hyperparams["learning_rate"].dtype)

        def step(carry, _):
            params, state = carry
            params, state, info = rule.update(None, params, state, problem.ys, weights=problem.weights)
            return (params, state), (info.objective, jnp.asarray(cost(state)))

        (params, _), (values, costs) = jax.lax.scan(step, (start, state), length=steps)
        values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
        return jax.lax.cummax(values), costs, params

    if rates is None:
        program = jax.vmap(lambda start: one(start, None))
        return jax.jit(program)(problem.starts)
    program = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    return jax.jit(program)(problem.starts, jnp.asarray(rates))


def _row(problem: Problem) -> Row:
    model, em = problem.model, optim.em_step(problem.model)
    values, _, ends = _climb(problem, em, STEPS["EM"], lambda state: 0)
    # the end of EM in its own basin: where acceleration leads from EM's last step
    polish = optim.accelerate(em)
    last = jax.vmap(lambda p: optim.run(polish, p, problem.ys, weights=problem.weights, steps=150))(ends)
    targets = np.maximum(np.asarray(values[:, -1]), np.asarray(last.final.objective))
    found = jax.jit(jax.vmap(lambda p: optim.rate(model, p, problem.ys, weights=problem.weights)))(last.params)
    rate = np.asarray(found.values[:, 0])
    still = np.asarray(found.gain) < 1e-4
    costs, elsewhere = {}, {}

    def note(name, values, spent):
        there = np.asarray(values) >= targets[:, None] - NEAR
        spent = np.broadcast_to(np.asarray(spent), there.shape)
        first = np.where(there.any(1), spent[np.arange(len(there)), there.argmax(1)], np.inf)
        costs[name] = float(np.median(first))
        elsewhere[name] = float(np.mean(np.asarray(values)[:, -1] < targets - 1e-4))
        return costs[name]

    note("EM", values, np.arange(1, STEPS["EM"] + 1))
    for name in ("Anderson", "SQUAREM"):
        rule = optim.accelerate(em, method=name.lower())
        note(name, *_climb(problem, rule, STEPS[name], lambda state: state.evaluations)[:2])
    rule = optim.eg_step(model, optax.lbfgs())
    climbed, trials, _ = _climb(
        problem, rule, STEPS["L-BFGS"], lambda state: 1 + tree_get(state, "num_linesearch_steps")
    )
    note("L-BFGS", climbed, np.cumsum(trials, -1))
    rule = optim.eg_step(model, optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
    climbed = _climb(problem, rule, STEPS["Adam"], lambda state: 0, RATES)[0]
    steps = np.arange(1, STEPS["Adam"] + 1)
    tried = {r: note("Adam", climbed[i], steps) for i, r in enumerate(RATES)}
    best = min(tried, key=lambda r: tried[r])
    note("Adam", climbed[RATES.index(best)], steps)
    return Row(
        problem.name,
        problem.kind,
        float(np.median(rate[still])) if still.any() else float("nan"),
        measured(np.asarray(values)),
        costs,
        elsewhere,
        best,
    )


def measured(values: np.ndarray) -> float:
    """EM's rate: the median over starts of the root of the ratio of two late gains above rounding; NaN for none."""
    rates = []
    for row in values:
        gains = np.diff(row)
        good = np.flatnonzero(gains > 3e-12 * max(1, abs(row[-1])))
        if len(good) < 4:
            continue
        i, width = good[-1], max(1, int(good[-1] // 20))
        if gains[i - width] > 0 and gains[i] < 1e-6:
            rates.append((gains[i] / gains[i - width]) ** (0.5 / width))
    return float(np.median(rates)) if rates else float("nan")


def crossing(rows: list[Row]) -> tuple[float, int, int]:
    """r*, as 1 − r*, that misplaces the fewest problems; how many it does; how many by more than `CROSSING`."""
    known = [(1 - row.rate, row.costs["EM"] <= gradient(row)) for row in rows if np.isfinite(row.rate)]
    gaps = sorted(gap for gap, _ in known)
    cuts = [gaps[0] / 2, *np.sqrt(np.multiply(gaps[1:], gaps[:-1])), 2 * gaps[-1]]
    wrong = [sum((gap > cut) != ahead for gap, ahead in known) for cut in cuts]
    cut = float(cuts[int(np.argmin(wrong))])
    far = sum((gap > cut) != ahead and max(gap / cut, cut / gap) > CROSSING for gap, ahead in known)
    return cut, min(wrong), far


def gradient(row: Row) -> float:
    """The cost of the best gradient method, its tuning not counted."""
    return min(row.costs["L-BFGS"], row.costs["Adam"])


def table(rows: list[Row]) -> Table:
    """A row for each problem."""
    out = Table(title="EM and the fraction of missing information r; E steps to 1e-6 nats a datum of EM's end")
    for name in ("problem", "r", "measured", *METHODS, "best rate", "lower end"):
        out.add_column(name, justify="left" if name == "problem" else "right")
    for row in sorted(rows, key=lambda row: row.rate):
        costs = [f"{row.costs[m]:.0f}" if np.isfinite(row.costs[m]) else "-" for m in METHODS]
        lower = ", ".join(f"{m} {row.elsewhere[m]:.0%}" for m in METHODS[1:] if row.elsewhere[m] > 0)
        out.add_row(row.name, f"{row.rate:.5f}", f"{row.measured:.5f}", *costs, f"{row.learning_rate:g}", lower)
    return out


def figures(rows: list[Row]) -> dict:
    """Every number, what became of each prediction, and the sentence."""
    errors = {
        row.name: abs(np.log(row.measured) / np.log(row.rate) - 1)
        for row in rows
        if np.isfinite(row.measured) and 0 < row.rate < RATE_RANGE
    }
    missed = [name for name, error in errors.items() if not error < RATE_ERROR]
    cut, wrong, far = crossing(rows)
    adam = [row.name for row in rows if 1 - row.rate > cut and row.costs["Adam"] < row.costs["EM"]]
    slow = [row.costs["EM"] / row.costs["Anderson"] for row in rows if row.rate > SLOW]
    quick = {row.name: row.costs["Anderson"] / row.costs["EM"] for row in rows if row.rate <= SLOW}
    dear = [name for name, ratio in quick.items() if ratio > OVERHEAD]
    fewer = np.median(slow) if slow else np.nan
    text = (
        f"EM's rate was ln r within {RATE_ERROR:.0%} on {len(errors) - len(missed)} of {len(errors)} problems"
        f"{_listed(missed)}. EM needs fewer E steps than the best gradient method where less than r* = {1 - cut:.3g} "
        f"of the information is missing: {wrong} of {len(rows)} problems lie on the wrong side, {far} by more than a "
        f"factor of {CROSSING:g} in 1 − r. Below r* Adam at its best rate was ahead on {len(adam)}. Where r > {SLOW}, "
        f"Anderson mixing needs {fewer:.1f} times fewer evaluations (median of {len(slow)}); elsewhere more than "
        f"{OVERHEAD} times as many as EM on {len(dear)} of {len(quick)}{_listed(dear)}."
    )
    return {"rows": [row._asdict() for row in rows], "crossing": 1 - cut, "adam_ahead": adam, "conclusion": text}


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
