"""Two series of a century: earthquakes by Poisson HMMs, the Nile with missing years."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

import elbo
from elbo import optim
from elbo.models import criteria, hmm, hmm_inference, linear_gaussian_chain, linear_gaussian_inference
from elbo.models.families import Poisson

from .. import datasets

STATES = (1, 2, 3, 4)
PIECES = len(STATES) + 2
GAP = (1891, 1905)  # years of the Nile that the models do not see, the last one excluded


class Quakes(NamedTuple):
    """A Poisson HMM of the earthquakes: the best of several starts.

    Attributes:
      log_likelihood: ln P of all counts, nats.
      parameters: free ones.
      rates: earthquakes a year in each state, ascending.
      expected: the rate of the decoded state, each year.
      aic, bic: smaller is better.
      starts: how many of the starts end within 1e-3 nats of the best.
    """

    log_likelihood: float
    parameters: int
    rates: np.ndarray
    expected: np.ndarray
    aic: float
    bic: float
    starts: int


class Flow(NamedTuple):
    """A model of the Nile that does not see the years of `GAP`.

    Attributes:
      log_likelihood: ln P of the years seen, nats.
      mean, scale: of each year's flow given all years seen, without the noise of the observation.
      miss: root mean square error in the years not seen; spread: what the mean of all years seen would get.
      variances: of the noise of a year and of the level's steps, where the model is one of a level.
    """

    log_likelihood: float
    mean: np.ndarray
    scale: np.ndarray
    miss: float
    spread: float
    variances: tuple[float, ...] = ()


class Result(NamedTuple):
    """Both series with what was found in them, from so many starts each."""

    years: np.ndarray
    counts: np.ndarray
    quakes: dict[int, Quakes]
    nile_years: np.ndarray
    flow: np.ndarray
    flows: dict[str, Flow]
    starts: int


def compute(tell: Callable[[str], None], starts: int = 8, steps: int = 500) -> Result:
    """Everything, in float64."""
    with jax.enable_x64(True):
        years, counts = datasets.earthquakes()
        quakes = {}
        for states in STATES:
            tell(f"earthquakes: Poisson HMM, {states} states")
            quakes[states] = fit_quakes(counts, states, starts, steps)
        nile_years, flow = datasets.nile()
        seen = np.where((nile_years >= GAP[0]) & (nile_years < GAP[1]), np.nan, flow)
        tell("Nile: Gaussian HMM")
        flows = {"Gaussian HMM, 2 states": fit_levels(seen, flow, starts, steps)}
        tell("Nile: local level")
        flows["local level"] = fit_level(seen, flow, steps)
    return Result(years, counts, quakes, nile_years, flow, flows, starts)


def _climb(model, start, starts: int, ys, steps: int) -> optim.Result:
    """Runs from several starts: one compiled run, mapped over them."""
    rule = optim.em_step(model)
    params = jax.vmap(start)(jax.random.split(jax.random.key(0), starts))
    return jax.vmap(lambda p: optim.run(rule, p, ys, steps=steps, tolerance=1e-10))(params)


def fit_quakes(counts: np.ndarray, states: int, starts: int, steps: int) -> Quakes:
    """EM from random rates around the quantiles of the counts."""
    ys = jnp.asarray(counts, float)[None, :, None]
    spread = jnp.quantile(ys, (jnp.arange(states) + 0.5) / states)[:, None]

    def start(key):
        rates = spread * jnp.exp(0.3 * jax.random.normal(key, spread.shape))
        return hmm.init(key, ys, states, family=Poisson.create(rates))

    model = hmm.model(states)
    runs = _climb(model, start, starts, ys, steps)
    best = optim.best(runs).params
    totals = jax.vmap(lambda p: jnp.sum(elbo.evidence(model)(p, ys)))(runs.params)
    decoded = hmm_inference.decode(model, best, ys).states[0]
    rates = np.asarray(best.theta.emission.rate())[:, 0]
    total, parameters = float(jnp.max(totals)), criteria.free_parameters(best.theta)
    return Quakes(
        *(total, parameters, np.sort(rates), rates[np.asarray(decoded)]),
        *(criteria.aic(total, parameters), criteria.bic(total, parameters, len(counts))),
        int(jnp.sum(totals > jnp.max(totals) - 1e-3)),
    )


def fit_levels(seen: np.ndarray, flow: np.ndarray, starts: int, steps: int) -> Flow:
    """Two levels with Gaussian noise; a year that is missing is summed out."""
    ys, model = jnp.asarray(seen)[None, :, None], hmm.model(2)
    best = optim.best(_climb(model, lambda key: hmm.init(key, ys, 2), starts, ys, steps)).params
    weights = np.asarray(hmm_inference.smooth(model, best, ys)[0])
    levels = np.asarray(best.theta.emission.mean)[:, 0]
    mean = weights @ levels
    return _flow(elbo.evidence(model)(best, ys), mean, np.sqrt(weights @ levels**2 - mean**2), seen, flow)


def fit_level(seen: np.ndarray, flow: np.ndarray, steps: int) -> Flow:
    """The local level model: a level that walks at random, seen with noise; L-BFGS finds the two variances."""
    ys, model = jnp.asarray(seen)[None, :, None], linear_gaussian_chain.model(1)
    rule, start = optim.eg_step(model, optax.lbfgs()), linear_gaussian_chain.local_level(ys)
    best = optim.run(rule, start, ys, steps=steps, tolerance=1e-12).params
    smoothed = linear_gaussian_inference.smooth(model, best, ys)
    scale = jnp.sqrt(smoothed.covariance[0, :, 0, 0])
    variances = tuple(float(part.scale()[0] ** 2) for part in (best.theta.observation, best.theta.transition))
    level = _flow(elbo.evidence(model)(best, ys), np.asarray(smoothed.mean[0, :, 0]), np.asarray(scale), seen, flow)
    return level._replace(variances=variances)


def _flow(evidence, mean, scale, seen, flow) -> Flow:
    hidden = np.isnan(seen)

    def error(guess):
        return float(np.sqrt(np.mean((flow - guess)[hidden] ** 2)))

    return Flow(float(evidence[0]), mean, scale, error(mean), error(np.nanmean(seen)))


def table(result: Result) -> Table:
    """What to print."""
    out = Table(
        title=f"Earthquakes of magnitude 7 and more, 1900 to 2006: Poisson HMMs, the best of {result.starts} starts",
        caption=f"ln P of the {len(result.counts)} counts in nats. Starts: how many end within 1e-3 nats of the best.",
    )
    for name in ("states", "ln P", "parameters", "AIC", "BIC", "starts", "earthquakes a year in each state"):
        out.add_column(name, justify="right")
    for states, q in result.quakes.items():
        rates = ", ".join(f"{r:.1f}" for r in q.rates)
        out.add_row(
            *(str(states), f"{q.log_likelihood:.3f}", str(q.parameters), f"{q.aic:.1f}", f"{q.bic:.1f}"),
            *(str(q.starts), rates),
        )
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    quakes = {k: q._replace(rates=q.rates.tolist(), expected=None)._asdict() for k, q in result.quakes.items()}
    flows = {k: {"log_likelihood": f.log_likelihood, "rms error": f.miss} for k, f in result.flows.items()}
    aic, bic = (min(result.quakes, key=lambda k: getattr(result.quakes[k], name)) for name in ("aic", "bic"))
    spread = next(iter(result.flows.values())).spread
    errors = ", ".join(f"{name} {f.miss:.0f} (ln P {f.log_likelihood:.2f})" for name, f in result.flows.items())
    return {
        "unit": "nats",
        "earthquakes": quakes,
        "Nile": flows,
        "conclusion": f"Earthquakes: AIC takes {aic} states, BIC {bic}. The Nile, {GAP[0]} to {GAP[1] - 1} hidden: the "
        f"root mean square error in these years is {spread:.0f} for the mean of the others; {errors}.",
    }
