"""Data in batches: `python -m benchmarks large` runs online EM over ten million points, and EM within 1 GiB."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.models import mixture

BATCH = 20_000
SMALL = 1_000  # of online EM: what counts is how many updates there are


def points(count: int, size: int = 2, seed: int = 0, apart: float = 4.0) -> np.ndarray:
    """Three Gaussians in a row, so many standard deviations apart; one of them is rare."""
    rng = np.random.default_rng(seed)
    centres = apart * np.arange(3)[:, None] * np.ones(size) / np.sqrt(size)
    which = rng.choice(3, size=count, p=[0.55, 0.4, 0.05])
    return (rng.standard_normal((count, size), np.float32) + centres[which]).astype(np.float32)


def online(count: int, apart: float) -> dict[str, float]:
    """One pass of online EM with the schedule γ_t = (t + 2)^−0.6, against the better of two runs of EM in memory."""
    ys, model = points(count, apart=apart), mixture.model(3)
    start = mixture.init(jax.random.key(0), jnp.asarray(ys[:10_000]), 3)
    rule = optim.minibatches(optim.damp(model, optim.em_step(model), lambda t: (t + 2.0) ** -0.6), SMALL)
    begin = time.perf_counter()
    once = optim.fit(rule, start, optim.Batches(ys, SMALL), key=jax.random.key(1), steps=1, progress=False)
    seconds = time.perf_counter() - begin
    # EM is slow here: it is given the end of the pass, too
    ends = [
        optim.fit(optim.em_step(model), p, jnp.asarray(ys), steps=200, progress=False) for p in (start, once.params)
    ]

    def value(params):
        return float(jnp.mean(elbo.evidence(model)(params, jnp.asarray(ys))))

    first, last, top = value(start), value(once.params), max(value(end.params) for end in ends)
    return {"start": first, "one pass": last, "EM": top, "gap left": (top - last) / (top - first), "seconds": seconds}


def capped(gigabytes: float, limit: float = 1.0) -> dict[str, float]:
    """Two EM steps over a memmap of so many GiB in a process of its own; its largest resident memory, GiB."""
    with tempfile.TemporaryDirectory() as folder:
        path, size = Path(folder) / "points.f32", 16
        count = int(gigabytes * 2**30 / 4 / size)
        with path.open("wb") as file:
            for begin in range(0, count, 2**20):
                file.write(points(min(2**20, count - begin), size, seed=begin).tobytes())
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.large", str(path), str(count), str(limit)],
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
    # the closer they are, the slower is EM itself
    for title, figures in (
        *((f"online EM, {apart} apart", online(count, apart)) for apart in (4.0, 2.5)),
        ("memory", capped(gigabytes)),
    ):
        print(title, *(f"{name} {value:.6g}" for name, value in figures.items()), sep="  ")


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
