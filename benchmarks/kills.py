"""`python -m benchmarks kills`: a run that writes checkpoints is killed many times, and ends as if it never was."""

import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from elbo import optim
from elbo.models import mixture

STEPS = 400


def fit(folder: str | None = None) -> optim.Result:
    """Minibatches with Adam, whose order and moments a resumed run has to know; a checkpoint every 5 steps."""
    key = jax.random.key(0)
    ys = jax.random.normal(key, (60, 2)) + 3 * (jnp.arange(60) % 2)[:, None]
    model = mixture.model(2)
    rule = optim.minibatches(optim.eg_step(model, optax.adam(1e-3)), 20)
    checkpoints = None if folder is None else optim.Checkpoints(folder, every=5)
    start = mixture.init(key, ys, 2)
    options = dict(every=5, progress=False, checkpoints=checkpoints, resume=folder is not None)
    return optim.fit(rule, start, ys, key=key, steps=STEPS, **options)  # type: ignore[arg-type]


def survive(kills: int, seed: int = 0) -> int:
    """Kills a run so many times (−9, at random moments), resumes it, and compares; how many were killed while running.

    Raises:
      AssertionError: the end is not that of an unbroken run, bit by bit.
    """
    rng, hits = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(kills):
            child = subprocess.Popen([sys.executable, "-m", f"{__package__}.kills", folder], stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()  # it is about to begin
            time.sleep(rng.uniform(0, 3))
            hits += child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
        seen, whole = fit(folder), fit()
    for a, b in zip(*(jax.tree.leaves((r.params, r.state, r.history)) for r in (seen, whole)), strict=True):
        np.testing.assert_array_equal(a, b)
    return hits


def main(kills: int) -> None:
    """Prints what came out."""
    hits = survive(kills)
    print(f"{kills} kills, {hits} of them while it ran: parameters, state and history are those of an unbroken run")


if __name__ == "__main__":
    print("begins", flush=True)
    fit(sys.argv[1])
