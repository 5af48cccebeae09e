"""What grows with the number of devices: `python -m benchmarks scaling`, on devices that one processor stands for."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

import elbo
from elbo import optim
from elbo.models import ctc, factor_analysis, hmm, hmm_vae, latent_lm, linear_gaussian_chain, mixture, pcfg, vae

from . import programs

DEVICES = (1, 2, 4, 8)
RATE, BANDWIDTH, WAIT = 1e13, 5e10, 5e-5
"""Assumed of each of 1,000 devices: FLOP/s, bytes/s of its link, and seconds that an all-reduce of nothing takes."""

Made = tuple[optim.Rule, elbo.Params, Any]


class Family(NamedTuple):
    """A row of the table: a description, and `make(key, count)`: a rule, parameters and so many data."""

    text: str
    count: int
    make: Callable[[jax.Array, int], Made]


def _normal(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape)


def _mixture(key: jax.Array, count: int) -> Made:
    ys = _normal(key, count, 16) + 4 * (jnp.arange(count) % 16)[:, None]
    return optim.em_step(mixture.model(16)), mixture.init(key, ys, 16), ys


def _factors(key: jax.Array, count: int) -> Made:
    ys = _normal(key, count, 64)
    return optim.em_step(factor_analysis.model(8)), factor_analysis.init(key, ys, 8), ys


def _hmm(key: jax.Array, count: int) -> Made:
    ys = _normal(key, count, 200, 4)
    return optim.em_step(hmm.model(8)), hmm.init(key, ys, 8), ys


def _kalman(key: jax.Array, count: int) -> Made:
    ys = jnp.cumsum(_normal(key, count, 100, 8), 1)
    return optim.em_step(linear_gaussian_chain.model(4)), linear_gaussian_chain.init(key, ys, 4), ys


def _ctc(key: jax.Array, count: int) -> Made:
    ys = elbo.Labelled(_normal(key, count, 100, 64), jax.random.randint(key, (count, 20), 1, 32))
    model = ctc.model(lambda weights, inputs: inputs.values @ weights)
    return optim.eg_step(model, optax.adam(1e-3)), elbo.Params.tied(0.1 * _normal(key, 64, 32)), ys


def _pcfg(key: jax.Array, count: int) -> Made:
    ys = jax.random.randint(key, (count, 12), 0, 50)
    return optim.em_step(pcfg.model(5, 10)), pcfg.init(key, 5, 10, words=50), ys


def _vae(key: jax.Array, count: int) -> Made:
    networks, params = vae.build(key, 784, 20, hidden=(400,))
    ys = (jax.random.uniform(key, (count, 784)) > 0.5).astype(float)
    return optim.vae_step(vae.model(networks), optax.adam(1e-3)), params, ys


def _hmm_vae(key: jax.Array, count: int) -> Made:
    ys = _normal(key, count, 50, 16)
    networks, params = hmm_vae.build(key, ys, 8, 4, hidden=(64,), likelihood="gaussian")
    return optim.vae_step(hmm_vae.model(networks, 8, "gaussian"), optax.adam(1e-3)), params, ys


def _language(key: jax.Array, count: int) -> Made:
    size = latent_lm.Size(symbols=40, states=8, past=3)
    networks, params = latent_lm.build(key, size)
    ys = jax.random.randint(key, (count, 64), 0, 40)
    return optim.eg_step(latent_lm.neural_hmm(networks, size), optax.adam(1e-3)), params, ys


FAMILIES = {
    "mixture": Family("em, 16 components, 16 dimensions; a point", 8192, _mixture),
    "factor analysis": Family("em, 8 factors, 64 dimensions; a point", 4096, _factors),
    "HMM": Family("em, 8 states, 4 dimensions; 200 frames", 64, _hmm),
    "Kalman": Family("em, 4 of 8 dimensions; 100 frames", 64, _kalman),
    "PCFG": Family("em, 5 + 10 symbols, 50 words; 12 words", 64, _pcfg),
    "CTC": Family("eg, 64 to 32 symbols; 100 frames", 64, _ctc),
    "latent LM": Family("eg, 8 states, 40 symbols; 64 characters", 64, _language),
    "VAE": Family("vae, 784-400-20; an image", 128, _vae),
    "HMM-VAE": Family("vae, 8 states, 16-64-4; 50 frames", 64, _hmm_vae),
}


class Cost(NamedTuple):
    """Of one step of a family: data in all, and the work of the first of so many devices."""

    count: int
    devices: int
    work: programs.Work


def measured(family: Family, count: int | None = None) -> Cost:
    """One step, with the data spread over all the devices there are."""
    count = count or family.count
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    key = jax.random.key(0)
    rule, params, ys = family.make(key, count)
    everywhere, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    params, ys = jax.device_put(params, everywhere), jax.device_put(ys, rows)
    with jax.set_mesh(mesh):
        step = jax.jit(lambda params, ys: rule.update(key, params, rule.init(params), ys))
        compiled = step.lower(params, ys).compile()
        done = programs.work(compiled.as_text(), programs.watched(compiled, params, ys))
    return Cost(count, jax.device_count(), done)


def enough(alone: Cost, spread: Cost) -> int:
    """Data a device at which what they cost is 90 % of a step on 1,000 devices of `RATE`, `BANDWIDTH` and `WAIT`.

    The rest is the reductions (in a ring each link carries 2 B bytes, whatever the number of devices) and what every
    device does by itself, such as the M step: so much of `alone` does not grow less on several devices.
    """
    share = 1 - alone.devices / spread.devices
    each = (alone.work.flops - spread.work.flops) / (alone.count * share)
    fixed = max(0.0, alone.work.flops - each * alone.count)
    rest = spread.work.reductions * WAIT + 2 * spread.work.reduced / BANDWIDTH + fixed / RATE
    return math.ceil(9 * rest * RATE / each)


def collect(
    names: Sequence[str], devices: Sequence[int], counts: dict[str, int] | None = None
) -> dict[str, list[Cost]]:
    """The costs of families on so many devices each; a process for each number, which JAX takes at its start."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for n in devices:
        flags = f"--xla_force_host_platform_device_count={n} {os.environ.get('XLA_FLAGS', '')}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        child = [sys.executable, "-m", f"{__package__}.scaling", json.dumps({m: (counts or {}).get(m) for m in names})]
        done = subprocess.run(child, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"scaling on {n} devices: {done.stderr[-2000:]}")
        for name, count, number, work in map(json.loads, done.stdout.splitlines()):
            costs[name].append(Cost(count, number, programs.Work(*work)))
    return costs


def table(costs: dict[str, list[Cost]]) -> str:
    """As Markdown."""
    devices = ", ".join(str(c.devices) for c in next(iter(costs.values())))
    lines = [
        f"| model | rule, sizes; a datum | N | MFLOP a device, on {devices} | all-reduces | bytes reduced "
        "| N a device |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in costs.items():
        spread = row[-1]
        each = ", ".join(f"{float(f'{c.work.flops / 1e6:.3g}'):,g}" for c in row)
        told = sorted({(c.work.reductions, c.work.reduced) for c in row if c.devices > 1})
        reductions, reduced = (" to ".join(dict.fromkeys(f"{t[i]:,}" for t in told)) or "–" for i in (0, 1))
        cells = (
            name,
            FAMILIES[name].text,
            f"{spread.count:,}",
            each,
            reductions,
            reduced,
            f"{float(f'{enough(row[0], spread):.2g}'):,.0f}",  # as sure as what is assumed
        )
        lines.append(f"| {' | '.join(cells)} |")
        if any(c.work.moved for c in row):
            lines[-1] += " data travel!"
    return "\n".join(lines)


def main(names: Sequence[str] = (), devices: Sequence[int] = DEVICES) -> None:
    """Prints the table."""
    print(table(collect(names or list(FAMILIES), devices)))
    print(f"\nassumed of each of 1,000 devices: {RATE:.0e} FLOP/s, {BANDWIDTH:.0e} B/s, {WAIT:.0e} s an all-reduce")


if __name__ == "__main__":
    for wanted, count in json.loads(sys.argv[1]).items():
        print(json.dumps([wanted, *measured(FAMILIES[wanted], count)]), flush=True)
