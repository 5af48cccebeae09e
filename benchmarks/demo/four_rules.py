"""One model, four rules: probabilistic PCA of the digits by EM, EG, variational EM and the VAE.

All four climb the same L(Ψ, Θ) from the same Θ, and its maximum over both is known: that of ln P_Θ (Tipping & Bishop).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

import elbo
from elbo import optim
from elbo.models import factor_analysis, ppca

from .. import datasets
from .clock import Trace, trace

PIECES = 4


class Size(NamedTuple):
    """How much of everything: data, latent dimensions, and steps of each rule."""

    data: int = 1797
    latent: int = 10
    em: int = 200
    eg: int = 60
    vem: int = 400
    vae: int = 3000


FULL = Size()


class Climb(NamedTuple):
    """One rule's run: what it is, and how it went."""

    e_step: str
    m_step: str
    trace: Trace


class Result(NamedTuple):
    """The highest ln P per datum (closed form), and the climbs by name of the rule."""

    best: float
    size: Size
    climbs: dict[str, Climb]


def compute(tell: Callable[[str], None], size: Size = FULL) -> Result:
    """Runs the four rules, in float64; `tell` is called before each."""
    with jax.enable_x64(True):
        return _compute(tell, size)


def _compute(tell, size):
    ys = jnp.asarray(datasets.digits()[0][: size.data] / 16)  # pixels in 0..16 to 0..1: the units of the nats
    best = float(ppca.maximum_likelihood(ys, size.latent)[1])
    exact, amortized = ppca.model(size.latent), factor_analysis.amortized()
    start = ppca.init(jax.random.key(0), ys, size.latent)
    encoder = elbo.Params(start.theta, factor_analysis.init_linear_encoder(start.theta))

    def decaying(rate, steps):
        return optax.adam(optax.cosine_decay_schedule(rate, steps))

    sampled = elbo.Reparameterized(1)  # left to itself, the toolkit would see that the exact expectation is available
    runs = {
        "em": ("exact", "exact", exact, start, optim.em_step(exact), size.em),
        "eg": ("exact", "L-BFGS", exact, start, optim.eg_step(exact, optax.lbfgs()), size.eg),
        "vem": (
            *("Adam", "exact", amortized, encoder),
            *(optim.vem_step(amortized, decaying(0.03, size.vem)), size.vem),
        ),
        "vae": (
            *("Adam (sampled)", "Adam (sampled)", amortized, encoder),
            *(optim.vae_step(amortized, decaying(0.01, size.vae), estimator=sampled), size.vae),
        ),
    }
    climbs = {}
    for name, (e_step, m_step, model, params, rule, steps) in runs.items():
        tell(f"{name}: {steps} steps")
        bound = elbo.elbo(model)  # exact: log_joint is quadratic in z, whatever the rule itself samples
        measured = trace(
            *(rule, params, ys, lambda p, bound=bound: jnp.mean(bound(p, ys))),
            key=jax.random.key(1),
            steps=steps,
            every=max(1, steps // 60),
        )
        climbs[name] = Climb(e_step, m_step, measured)
    return Result(best, size, climbs)


def table(result: Result) -> Table:
    """What to print."""
    size = result.size
    out = Table(
        title=f"One model, four rules: PPCA of {size.data} digits (64 pixels / 16), {size.latent} latents",
        caption=f"Closed form: {result.best:.9f} nats per datum. Distance: closed form − L, both exact, in float64: "
        "the last rule's steps are sampled, no measurement is. Seconds do not count compiling.",
    )
    for name in ("rule", "E step", "M step"):
        out.add_column(name)
    for name in ("L, nats per datum", "distance", "steps", "to 1e-3", "seconds", "to 1e-3", "compile s"):
        out.add_column(name, justify="right")
    for name, row in figures(result)["rules"].items():
        climb = result.climbs[name]
        out.add_row(
            *(name, climb.e_step, climb.m_step, f"{row['elbo']:.9f}", f"{row['distance']:.1e}", f"{row['steps']}"),
            *(_number(row["steps_to_1e-3"]), f"{row['seconds']:.2f}", _number(row["seconds_to_1e-3"], 2)),
            f"{row['compile_seconds']:.1f}",
        )
    return out


def conclusion(rules: dict) -> str:
    """One sentence, from the numbers."""
    gaps = {name: row["distance"] for name, row in rules.items()}
    near = [name for name, gap in gaps.items() if abs(gap) <= 1e-2]
    furthest = max(gaps, key=lambda name: abs(gaps[name]))
    return (
        f"{len(near)} of {len(gaps)} rules end within 0.01 nats per datum of the closed-form maximum of ln P; the "
        f"furthest off is {furthest}, by {gaps[furthest]:.1e}."
    )


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    rules = {}
    for name, climb in result.climbs.items():
        run = climb.trace
        gap = result.best - run.values
        near = np.flatnonzero(gap <= 1e-3)
        rules[name] = {
            "e_step": climb.e_step,
            "m_step": climb.m_step,
            "elbo": run.values[-1],
            "distance": gap[-1],
            "steps": int(run.steps[-1]),
            "steps_to_1e-3": int(run.steps[near[0]]) if near.size else None,
            "seconds": run.seconds[-1],
            "seconds_to_1e-3": run.seconds[near[0]] if near.size else None,
            "compile_seconds": run.compiling,
        }
    return {
        "model": f"probabilistic PCA, {result.size.latent} latent dimensions, float64",
        "data": f"{result.size.data} digits of 64 pixels, divided by 16",
        "unit": "nats per datum",
        "closed_form": result.best,
        "rules": rules,
        "conclusion": conclusion(rules),
    }


def _number(value, digits=0) -> str:
    return "never" if value is None else f"{value:.{digits}f}"
