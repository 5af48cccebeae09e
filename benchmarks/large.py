"""Data in batches: `python -m benchmarks large` runs online EM over ten million points, and EM within 1 GiB."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbo
from elbo import optim
from elbo.models import families, mixture

BATCH = 20_000
SMALL = 1_000  # of online EM: what counts is how many updates there are


LAYOUTS = {"4 and 4 apart": (0.0, 4.0, 8.0), "2.5 and 2.5 apart": (0.0, 2.5, 5.0), "2.5 and 3.5 apart": (0.0, 2.5, 6.0)}
"""Where three Gaussians stand in a row, in standard deviations. The closer they are, the slower is EM itself."""
SHARES = (0.55, 0.4, 0.05)


def points(count: int, size: int = 2, seed: int = 0, at: Sequence[float] = (0.0, 4.0, 8.0)) -> np.ndarray:
    """Three Gaussians in a row, one of which is rare, [count, size]."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, size=count, p=SHARES)
    return (rng.standard_normal((count, size), np.float32) + _centres(size, at)[which]).astype(np.float32)


def _centres(size: int, at: Sequence[float]) -> np.ndarray:
    return np.asarray(at)[:, None] * np.ones(size) / np.sqrt(size)


def schedules(batches: int) -> dict[str, Callable]:
    """Of one pass."""
    return {"falls to 0": optax.linear_schedule(0.3, 0.0, batches), "(t + 2)^-0.6": lambda t: (t + 2.0) ** -0.6}


def online(count: int, at: Sequence[float]) -> Iterator[tuple[str, dict[str, float]]]:
    """One pass of online EM with each schedule, against EM in memory from the truth.

    Both begin from the best of eight starts by k-means++. The gap is of ln P(y) of 200,000 points that no run has seen,
    in float64; below 0 is noise.
    """
    ys, model = points(count, at=at), mixture.model(3)
    few, held = jnp.asarray(ys[:10_000]), points(200_000, seed=1, at=at)
    starts = [mixture.init(key, few, 3) for key in jax.random.split(jax.random.key(0), 8)]
    start = max(starts, key=lambda params: float(jnp.mean(elbo.evidence(model)(params, few))))
    truth = mixture.Theta(
        families.Categorical.create(jnp.asarray(SHARES, jnp.float32)),
        families.MultivariateNormal.create(jnp.asarray(_centres(2, at), jnp.float32), jnp.tile(jnp.eye(2), (3, 1, 1))),
    )
    top = optim.run(optim.em_step(model), elbo.Params.tied(truth), jnp.asarray(ys), steps=100).params

    def value(params):
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), params)
            return float(jnp.mean(elbo.evidence(model)(wide, jnp.asarray(held, jnp.float64))))

    first, last = value(start), value(top)
    for name, rate in schedules(-(-count // SMALL)).items():
        rule = optim.minibatches(optim.damp(model, optim.em_step(model), rate), SMALL)
        begin = time.perf_counter()
        once = optim.fit(rule, start, optim.Batches(ys, SMALL), key=jax.random.key(1), steps=1, progress=False)
        seconds, here = time.perf_counter() - begin, value(once.params)
        figures = {"start": first, "one pass": here, "EM": last, "gap left": (last - here) / (last - first)}
        yield f"rate {name}", {**figures, "seconds": seconds}


def capped(gigabytes: float, limit: float = 1.0) -> dict[str, float]:
    """Two EM steps over a memmap of so many GiB in a process of its own; its largest resident memory, GiB."""
    with tempfile.TemporaryDirectory() as folder:
        path, size = Path(folder) / "points.f32", 16
        count = int(gigabytes * 2**30 / 4 / size)
        with path.open("wb") as file:
            for begin in range(0, count, 2**20):
                file.write(points(min(2**20, count - begin), size, seed=begin).tobytes())
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.large", str(path), str(count), str(limit)],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    steps, seconds, peak = map(float, done.stdout.split())
    return {"GiB of data": gigabytes, "steps": steps, "seconds": seconds, "GiB resident at most": peak}


def _child(path: str, count: int, limit: float) -> None:
    ys, model = np.memmap(path, np.float32, "r", shape=(count, 16)), mixture.model(3)
    # what a memmap has read is given back where memory is short; what the process owns is capped
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30), int(limit * 2**30)))
    stream = optim.Batches(ys, BATCH)
    start = mixture.init(jax.random.key(0), optim.sample(optim.Batches(ys[: 50 * BATCH], BATCH), 10_000), 3)
    begin = time.perf_counter()
    result = optim.fit(optim.em_step(model), start, stream, steps=2, progress=False)
    print(result.steps, time.perf_counter() - begin, _owned())


def _owned() -> float:
    """GiB of resident memory that is not the file's."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 2**20


def main(count: int, gigabytes: float) -> None:
    """Prints what was found."""
    for layout, at in LAYOUTS.items():
        for title, figures in online(count, at):
            _print(f"online EM, {layout}, {title}", figures)
    _print("memory", capped(gigabytes))


def _print(title: str, figures: dict[str, float]) -> None:
    print(title, *(f"{name} {value:.6g}" for name, value in figures.items()), sep="  ", flush=True)


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
