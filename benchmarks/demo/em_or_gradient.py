"""EM against gradient ascent on ln P, on Gaussian mixtures: which is faster, and which ends higher?

By Fisher's identity a step of `eg_step` is a step of its optimiser on ln P, so the gradient methods here are `eg_step`
with Adam, plain gradient ascent (SGD on all the data) and L-BFGS. Same model, same starts, same parameters (means, log
odds of the weights, the root of each precision with the logarithm of its diagonal), float64.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Categorical, PseudoScale

from .. import datasets
from .clock import fit

TOLERANCES = (1e-3, 1e-5)
"""How near to the best is near, nats per datum."""
PRIOR = 1.0
"""Imaginary data, spread like all the data, that each covariance has seen: without one ln P has no upper bound."""
FAR = 3.0
"""How many times as fast is "far superior"."""
RATES = {"Adam": (0.01, 0.03, 0.1, 0.3), "SGD": (0.01, 0.03, 0.1, 0.3)}


class Problem(NamedTuple):
    """A mixture to fit.

    Attributes:
      name, data: what a person calls it, and what the data are.
      ys: [N, D], float64.
      components: K.
      covariance_type: of the components.
      steps: by method.
      starts: how many, by k-means++.
      trials: further starts, on which the learning rates are tried.
    """

    name: str
    data: str
    ys: np.ndarray
    components: int
    covariance_type: str
    steps: dict[str, int]
    starts: int
    trials: int


class Method(NamedTuple):
    """One method's runs on one problem, a row for each start.

    Attributes:
      rate: the best learning rate of the grid, if there is one.
      values: the highest objective per datum so far, before each step, [starts, steps].
      seconds: each start's run took, compiling apart, [starts].
      compiling: seconds to trace and compile.
    """

    rate: float | None
    values: np.ndarray
    seconds: np.ndarray
    compiling: float


class Contest(NamedTuple):
    """A problem and its methods by name."""

    problem: Problem
    methods: dict[str, Method]


def problems() -> list[Problem]:
    """The contests."""
    minutes = datasets.faithful()
    geyser = (minutes - minutes.mean(0)) / minutes.std(0), "Old Faithful, 272 x 2, standardised"
    pixels = datasets.digits()[0] / 16
    centred = pixels - pixels.mean(0)
    few = centred @ np.linalg.svd(centred, full_matrices=False)[2][:16].T

    def steps(em, lbfgs, adam, sgd):
        return {"EM": em, "L-BFGS": lbfgs, "Adam": adam, "SGD": sgd}

    def problem(name, what, covariance, steps, starts, trials):
        (ys, data), components = what, int(name.split("=")[1])
        return Problem(name, data, ys, components, covariance, steps, starts, trials)

    digits, reduced = (pixels, "digits, 1797 x 64, pixels / 16"), (few, "digits, 1797 x 16 principal components")
    return [
        problem("geyser, K=2", geyser, "full", steps(100, 60, 1000, 2000), 10, 3),
        problem("geyser, K=3", geyser, "full", steps(1000, 150, 2000, 4000), 10, 3),
        problem("digits, K=10", digits, "spherical", steps(100, 100, 250, 250), 5, 2),
        problem("digits 16-d, K=10", reduced, "full", steps(400, 300, 500, 500), 5, 2),
    ]


METHODS = ("EM", "L-BFGS", "Adam", "SGD")
PIECES = 4 * len(METHODS)


def compute(tell: Callable[[str], None], contests: list[Problem] | None = None) -> list[Contest]:
    """Runs every method on every problem from the same starts; `tell` is called before each."""
    with jax.enable_x64(True):
        return [_contest(tell, problem) for problem in (problems() if contests is None else contests)]


class Path(NamedTuple):
    """EM on Old Faithful from a bad start, in minutes: the means at each step [steps, K, 2], the last covariances."""

    ys: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def path(steps: int = 30) -> Path:
    """A mixture of two, from two wide components on the wrong sides of the data."""
    with jax.enable_x64(True):
        ys = jnp.asarray(datasets.faithful())
        wide = mixture.gaussian(ys, 2)
        start = dataclasses.replace(wide, mean=jnp.array([[3.7, 96.0], [4.7, 50.0]]))
        theta = mixture.Theta(Categorical.create(jnp.array([0.5, 0.5])), start)
        params = elbo.Params.tied(theta)
        means = [start.mean]
        done = fit(
            *(optim.em_step(mixture.model(2)), params, ys),
            steps=steps,
            every=1,
            callback=lambda step, params, info: means.append(params.theta.components.mean),
        )
        covariances = done.params.theta.components.covariance()
    return Path(np.asarray(ys), np.asarray(means), np.asarray(covariances))


def _contest(tell, problem: Problem) -> Contest:
    ys = jnp.asarray(problem.ys)
    wide = mixture.gaussian(ys, problem.components, problem.covariance_type)
    prior = mixture.Theta(None, PseudoScale(wide, PRIOR))
    model = mixture.model(problem.components)
    keys = jax.random.split(jax.random.key(0), problem.starts + problem.trials)
    params = jax.jit(jax.vmap(lambda key: mixture.init(key, ys, problem.components, family=wide)))(keys)
    starts, trials = range(problem.starts), range(problem.starts, len(keys))
    rules = {
        "EM": optim.em_step(model, prior=prior),
        "L-BFGS": optim.eg_step(model, optax.lbfgs(), prior=prior),
        "Adam": optim.eg_step(model, optax.inject_hyperparams(optax.adam)(learning_rate=0.1), prior=prior),
        "SGD": optim.eg_step(model, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), prior=prior),
    }
    methods = {}
    for name in METHODS:
        tell(f"{problem.name}: {name}")
        climb, compiling = _program(rules[name], params, ys, problem.steps[name])
        tried = {rate: climb(trials, rate)[0] for rate in RATES[name]} if name in RATES else {None: None}
        rate = max(tried, key=partial(_merit, tried)) if name in RATES else None
        methods[name] = Method(rate, *climb(starts, rate), compiling)
    return Contest(problem, methods)


def _program(rule: optim.Rule, params: elbo.Params, ys: jax.Array, steps: int):
    """`optim.run`, compiled for any start and any learning rate, and the seconds that took to compile.

    `climb(starts, rate)` gives the highest objective so far [starts, steps] and the seconds [starts].
    """

    def begin(i, rate):
        start = jax.tree.map(lambda a: a[i], params)
        state = rule.init(start)
        if rate is not None:
            state.hyperparams["learning_rate"] = jnp.full_like(state.hyperparams["learning_rate"], rate)
        return start, state

    start, state = begin(0, None)
    clock = time.perf_counter()
    program = optim.run.lower(rule, start, ys, state=state, steps=steps).compile()
    compiling = time.perf_counter() - clock

    def climb(starts, rate):
        values, seconds = [], []
        for i in starts:
            start, state = jax.block_until_ready(begin(i, rate))
            clock = time.perf_counter()
            out = jax.block_until_ready(program(start, ys, state=state))
            seconds.append(time.perf_counter() - clock)
            objective = np.asarray(out.history.objective)
            values.append(np.maximum.accumulate(np.where(np.isfinite(objective), objective, -np.inf)))
        return np.array(values), np.array(seconds)

    return climb, compiling


def _merit(tried: dict[float, np.ndarray], rate: float) -> tuple[float, float]:
    """The better learning rate comes sooner to within 1e-4 nats of the highest that any reached from the same start."""
    goal = np.max([values[:, -1:] for values in tried.values()], axis=0)
    values = tried[rate]
    reached = values >= goal - 1e-4
    steps = np.where(reached.any(1), reached.argmax(1), 10 * values.shape[1])
    return -float(np.mean(steps)), float(np.mean(values[:, -1]))


def steps_to_end(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Steps until each run [starts, steps] is within the tolerance of where it ends; infinite if it is still climbing.

    Still climbing: it was not there before the last tenth of its steps.
    """
    first = np.argmax(values >= values[:, -1:] - tolerance, axis=1)
    return np.where(np.isfinite(values[:, -1]) & (first <= 0.9 * values.shape[1]), first, np.inf)


def highest(contest: Contest) -> np.ndarray:
    """The highest end of any method from each start, [starts, 1]."""
    return np.max([method.values[:, -1:] for method in contest.methods.values()], axis=0)


def figures(contests: list[Contest]) -> dict:
    """Every number, for demo.json."""
    return {
        "objective": "nats per datum: ln P + ln prior, which is the spread of one imaginary datum per covariance",
        "to": "until within so many nats per datum of where the run ends; null: most were still climbing",
        "problems": {contest.problem.name: _figures(contest) for contest in contests},
        "conclusion": conclusion(contests),
    }


def _figures(contest: Contest) -> dict:
    problem, goal = contest.problem, highest(contest)
    rows = {}
    for name, (rate, values, seconds, compiling) in contest.methods.items():
        per_step = float(np.min(seconds)) / values.shape[1]  # the other runs were disturbed
        row = {"learning_rate": rate, "steps": values.shape[1], "seconds_per_step": per_step}
        for tolerance in TOLERANCES:
            steps = steps_to_end(values, tolerance)
            median = float(np.median(steps))
            row[f"to_{_short(tolerance)}"] = {"steps": _or_none(median), "seconds": _or_none(median * per_step)}
        row["mean_end"] = _or_none(np.mean(values[:, -1]))
        row["highest_from_the_start"] = int(np.sum(values[:, -1:] >= goal - 1e-3))
        row["highest_of_all"] = int(np.sum(values[:, -1] >= goal.max() - 1e-3))
        row["compile_seconds"] = compiling
        rows[name] = row
    return {
        "data": problem.data,
        "components": problem.components,
        "covariance": problem.covariance_type,
        "starts": problem.starts,
        "highest": float(goal.max()),
        "methods": rows,
    }


def _short(tolerance: float) -> str:
    return np.format_float_scientific(tolerance, trim="-", exp_digits=1)


def _or_none(value) -> float | None:
    return float(value) if np.isfinite(value) else None


def table(contests: list[Contest]) -> Table:
    """What to print."""
    rates = ", ".join(map(str, RATES["Adam"]))
    out = Table(
        title="EM against gradient ascent on ln P: Gaussian mixtures, k-means++ starts, float64",
        caption="to 1e-3, 1e-5: until so near (nats per datum) to where the run itself ends; medians over the starts; "
        "climbing: not there yet. end: ln P + ln prior per datum, mean over the starts. as high: starts from which no "
        f"other method ends higher. Learning rates: the best of {rates} on other starts; neither that search nor "
        "compiling is counted.",
    )
    for name in ("problem", "method", "rate"):
        out.add_column(name)
    for tolerance in TOLERANCES:
        out.add_column(f"steps, ms to {_short(tolerance)}", justify="right")
    for name in ("end", "as high", "ms a step", "compile s"):
        out.add_column(name, justify="right")
    for name, problem in figures(contests)["problems"].items():
        for method, row in problem["methods"].items():
            times = [row[f"to_{_short(tolerance)}"] for tolerance in TOLERANCES]
            rate, end = row["learning_rate"], row["mean_end"]
            out.add_row(
                *(name if method == METHODS[0] else "", method, "" if rate is None else f"{rate:g}"),
                *(_cell(**t) for t in times),
                *("none" if end is None else f"{end:.4f}", f"{row['highest_from_the_start']}/{problem['starts']}"),
                *(f"{1e3 * row['seconds_per_step']:.3f}", f"{row['compile_seconds']:.1f}"),
                end_section=method == METHODS[-1],
            )
    return out


def _cell(steps: float | None, seconds: float | None) -> str:
    if steps is None or seconds is None:
        return "climbing"
    ms = 1e3 * seconds
    return f"{steps:.0f}, {ms:.3g} ms" if ms < 1000 else f"{steps:.0f}, {ms:.0f} ms"


def conclusion(contests: list[Contest]) -> str:
    """What the numbers say of the claim that EM is "typically far superior"."""
    sentences, far = [], []
    for contest in contests:
        rows = _figures(contest)["methods"]
        ends = {name: -np.inf if row["mean_end"] is None else row["mean_end"] for name, row in rows.items()}
        top = max(METHODS[1:], key=ends.__getitem__)
        lead = ends["EM"] - ends[top]
        place = "as high as" if abs(lead) <= 1e-3 else f"{abs(lead):.2g} nats {'above' if lead > 0 else 'below'}"
        ratios = []
        for tolerance in TOLERANCES:
            seconds = {name: row[f"to_{_short(tolerance)}"]["seconds"] or np.inf for name, row in rows.items()}
            # a method that stops far below EM has not arrived anywhere
            rivals = [name for name in METHODS[1:] if ends[name] >= ends["EM"] - 0.01 and np.isfinite(seconds[name])]
            rival = min(rivals, key=seconds.__getitem__, default=None)
            ratios.append((seconds[rival] / seconds["EM"] if rival else np.inf, rival))
        far.append(lead >= -1e-3 and all(ratio >= FAR for ratio, _ in ratios))
        said: dict[str, list[str]] = {}
        for ratio, tolerance in zip(ratios, TOLERANCES, strict=True):
            said.setdefault(_faster(*ratio), []).append(f"to {_short(tolerance)}")
        speeds = ", ".join(f"{text} {' and '.join(near)}" for text, near in said.items())
        sentences.append(f"{contest.problem.name}: {speeds}; EM ends {place} {top}")
    share = sum(far) / len(far)
    verdict = "holds on most" if share > 0.5 else "holds on some" if share > 0 else "holds on none"
    return (
        f"That EM is far superior to any gradient method (at least {FAR:g} times as fast as the fastest, and no lower "
        f"end) {verdict} of these problems: {sum(far)} of {len(far)}. {'. '.join(sentences)}."
    )


def _faster(ratio: float, rival: str | None) -> str:
    if rival is None:
        return "only EM gets"
    if ratio == 0:
        return f"{rival} gets, EM does not,"
    if 1 / 1.5 < ratio < 1.5:
        return f"EM and {rival} take about as long"
    return (
        f"EM is {ratio:.1f} times as fast as {rival}" if ratio >= 1 else f"{rival} {1 / ratio:.1f} times as fast as EM"
    )
