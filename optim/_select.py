"""Which model: restarts, sizes and folds in few programs; short runs first, and the best of them go on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import Model, Params
from elbo.extend import PyTree, aic, batch_length, bic, free_parameters

from ._arguments import require_count
from ._rule import Rule
from ._run import Reason, best, run

CRITERIA = {"aic": -1, "bic": -1, "held_out": 1, "log_likelihood": 1}  # 1: larger is better
LABELS = {"aic": "AIC", "bic": "BIC", "held_out": "ln P held out, a datum", "log_likelihood": "ln P of all data"}


class Candidate(NamedTuple):
    """A model that may be chosen.

    Attributes:
      rule: what fits it; exact, so that it needs no key.
      init: `init(key, ys, weights)`, where to start; vmapped over keys and weights.
      model: gives ln P of the data.
    """

    rule: Rule
    init: Callable[[jax.Array, PyTree, jax.Array], Params]
    model: Model


class Row(NamedTuple):
    """What came out for one candidate.

    Attributes:
      name: its key in `candidates`.
      params: of the best restart on all data.
      log_likelihood: Σ w ln P(y) of them, nats.
      parameters: how many are free (`models.criteria.free_parameters`), or None where a family cannot tell.
      aic, bic: −2 ln P + 2 p and −2 ln P + p ln n; smaller is better. None where p is; NaN where ln P is.
      held_out: mean ln P of the data held out, nats, each under the parameters fitted without its fold; None without
        folds.
      reason, steps: of the best run.
    """

    name: Any
    params: Params
    log_likelihood: float
    parameters: int | None
    aic: float | None
    bic: float | None
    held_out: float | None
    reason: Reason
    steps: int


class Selection(NamedTuple):
    """The rows of all candidates, in their order; printed as a table.

    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.repeat(jnp.arange(2.0), 20)[:, None] + 0.1 * jax.random.normal(jax.random.key(0), (40, 1))
    >>> model, init = mixture.model(2), lambda key, ys, weights: mixture.init(key, ys, 2, weights=weights)
    >>> two = optim.Candidate(optim.em_step(model), init, model)
    >>> table = optim.select({"two": two}, ys, jax.random.key(1), restarts=2, steps=20)
    >>> table.best("bic").parameters
    5
    """

    rows: list[Row]

    def best(self, criterion: str = "bic") -> Row:
        """The row with the smallest "aic" or "bic", or the largest "held_out" or "log_likelihood"; NaN never wins."""
        if criterion not in CRITERIA:
            raise ValueError(f"criterion: got {criterion!r}, expected 'aic', 'bic', 'held_out' or 'log_likelihood'")
        values = self._values(criterion)
        if None in values:
            raise ValueError(f"criterion: {criterion} is not known of every candidate; held_out needs folds >= 2")
        ranks = CRITERIA[criterion] * np.array(values)
        return self.rows[int(np.argmax(np.where(np.isnan(ranks), -np.inf, ranks)))]

    def plot(self) -> Any:
        """AIC and BIC of every candidate, and below them ln P held out, as a figure of matplotlib (extra `demo`).

        A ring is around the best of each. Names that are numbers stand in their place on the axis. What is not known of
        every candidate is left out.
        """
        import matplotlib.pyplot as plt

        names = [row.name for row in self.rows]
        places = names if all(isinstance(name, int | float) for name in names) else range(len(names))
        known = [c for c in ("aic", "bic", "held_out", "log_likelihood") if None not in self._values(c)]
        # without folds ln P itself, which never falls with the size of a model
        below = "held_out" if "held_out" in known else "log_likelihood"
        panels = [p for p in ([c for c in known if c in ("aic", "bic")], [below]) if p]
        figure, axes = plt.subplots(len(panels), sharex=True, squeeze=False, layout="constrained")
        for ax, panel in zip(axes[:, 0], panels, strict=True):
            for criterion in panel:
                (line,) = ax.plot(places, self._values(criterion), marker="o", label=LABELS[criterion])
                best = names.index(self.best(criterion).name)
                ring = dict(marker="o", markersize=13, fillstyle="none", linestyle="none", color=line.get_color())
                ax.plot(places[best], self._values(criterion)[best], **ring)
            ax.set_ylabel("nats, smaller is better" if panel != [below] else "nats, larger is better")
            ax.legend()
        axes[-1, 0].set_xticks(list(places), [str(name) for name in names])
        axes[-1, 0].set_xlabel("candidate")
        return figure

    def _values(self, criterion: str) -> list:
        return [getattr(row, criterion) for row in self.rows]

    def __str__(self) -> str:
        heads = ("name", "log_likelihood", "parameters", "aic", "bic", "held_out", "steps", "reason")
        lines = [[_cell(getattr(row, head)) for head in heads] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
        return "\n".join(
            "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in [list(heads), *lines]
        )


def select(
    candidates: Mapping[Any, Candidate],
    ys: PyTree,
    key: jax.Array,
    *,
    weights: jax.Array | None = None,
    restarts: int = 8,
    short: int = 10,
    keep: int = 2,
    steps: int = 500,
    tolerance: float = 1e-6,
    folds: int = 0,
    observations: float | None = None,
    at_once: int | None = None,
) -> Selection:
    """Fits every candidate from several starts, on all data and without each fold, and compares them.

    All restarts and folds of a candidate are one program (vmap), and so are the short runs; the `keep` best of the
    short runs go on (em-EM, Biernacki, Celeux & Govaert 2003). So there are two programs a candidate, whatever the
    number of restarts and folds.

    Args:
      candidates: name to `Candidate`, such as one for each number of components.
      ys: pytree of data with a leading axis N; `Padded` sequences are data here.
      key: of the starts, and of the folds.
      weights: [N], 1 by default.
      restarts: starts of each candidate and fold.
      short: steps before the best go on.
      keep: how many go on.
      steps, tolerance: of those, as in `run`.
      folds: how many parts are held out in turn; 0 for none.
      observations: n of BIC; Σ w by default. Of sequences give the number of frames.
      at_once: at most so many runs at a time, which bounds the memory; all by default.

    Returns:
      A `Selection`: print it, or ask for `.best("bic").params`.
    """
    size = batch_length(ys)
    for name, value, least in (("restarts", restarts, 1), ("short", short, 1), ("keep", keep, 1), ("steps", steps, 1)):
        require_count(name, value, least)
    require_count("folds", folds, 0)
    if folds == 1 or folds > size:
        raise ValueError(f"folds: got {folds}, expected 0, or 2 to {size}")
    weights = jnp.ones(size) if weights is None else jnp.asarray(weights)
    start_key, fold_key = jax.random.split(key)
    part = jax.random.permutation(fold_key, jnp.arange(size) % max(folds, 1))
    # all data first, then without each fold
    used = jnp.stack([weights, *(jnp.where(part == i, 0, weights) for i in range(folds))])
    keys = jax.random.split(start_key, restarts)
    options = (short, min(keep, restarts), steps, tolerance, at_once)
    rows = []
    for name, candidate in candidates.items():
        runs = _fitted(candidate, options, ys, used, keys)
        values = jax.vmap(lambda params: elbo.evidence(candidate.model)(params, ys))(runs.params)  # noqa: B023
        table = np.asarray(values, np.float64), np.asarray(weights), np.asarray(part)
        rows.append(_row(name, runs, *table, folds, observations))
    return Selection(rows)


@partial(jax.jit, static_argnums=(0, 1))
def _fitted(candidate: Candidate, options: tuple, ys, used, keys):
    """The best run for each row of weights."""
    short, keep, steps, tolerance, at_once = options
    rule = candidate.rule

    def begin(job):
        key, weights = job
        params = candidate.init(key, ys, weights)
        return run(rule, params, ys, steps=short, weights=weights)

    def go_on(job):
        first, weights = job
        more = dict(steps=steps, tolerance=tolerance, weights=weights, state=first.state, first=short)
        return run(rule, first.params, ys, **more)

    def each(f, jobs):
        return jax.vmap(f)(jobs) if at_once is None else jax.lax.map(f, jobs, batch_size=at_once)

    def grid(a, count):
        return a.reshape(len(used), count, *a.shape[1:])

    jobs = jnp.tile(keys, len(used)), jnp.repeat(used, len(keys), 0)
    runs = jax.tree.map(lambda a: grid(a, len(keys)), each(begin, jobs))
    assert runs.final is not None
    objective = jnp.where(jnp.isnan(runs.final.objective), -jnp.inf, runs.final.objective)
    order = jnp.lexsort((-objective, runs.final.dropped), axis=-1)[:, :keep]
    chosen = jax.tree.map(lambda a: jax.vmap(lambda row, i: row[i])(a, order).reshape(-1, *a.shape[2:]), runs)
    ends = each(go_on, (chosen, jnp.repeat(used, keep, 0)))
    return jax.vmap(best)(jax.tree.map(lambda a: grid(a, keep), ends))


def _row(name, runs, values, weights, part, folds, observations) -> Row:
    first = jax.tree.map(lambda a: a[0], runs)
    counted = weights > 0
    total = float(np.sum(weights[counted] * values[0][counted]))
    try:
        parameters = free_parameters(first.params.theta)
    except TypeError:  # a family of the user's own that has no such method
        parameters = None
    akaike = schwarz = held_out = None
    if parameters is not None:
        count = float(np.sum(weights)) if observations is None else observations
        known = not np.isnan(total)  # or a candidate that cannot use the data would end the comparison of the others
        akaike = aic(total, parameters) if known else float("nan")
        schwarz = bic(total, parameters, count) if known else float("nan")
    if folds:
        own = values[1:][part, np.arange(len(part))]
        held_out = float(np.sum(weights[counted] * own[counted]) / np.sum(weights))
    return Row(
        name, first.params, total, parameters, akaike, schwarz, held_out, Reason(int(first.reason)), int(first.steps)
    )


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
