"""`python -m benchmarks long`: what 100,000 steps hold, in `fit`, on a stream, with checkpoints and in a loop."""

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.models import mixture


class Held(NamedTuple):
    """What a process holds after some steps.

    Attributes:
      step: how many.
      resident: MiB of memory.
      arrays: `jax.live_arrays()`, how many.
      traces: how often the model was traced.
      seconds: of the processor since the mark before, per step.
      written: bytes in the folder of checkpoints.
    """

    step: int
    resident: float
    arrays: int
    traces: int
    seconds: float
    written: int


class Watch:
    """A problem whose traces are counted, and marks of what is held."""

    def __init__(self, marks: tuple[int, ...], folder: Path | None = None):
        self.marks, self.folder = marks, folder
        self.seen: list[Held] = []
        self.traces, self.last = 0, (0, time.process_time())
        self.ys = jax.random.normal(jax.random.key(0), (100, 2)) + 3 * (jnp.arange(100) % 2)[:, None]
        base = mixture.model(2)

        def log_joint(theta, z, y):
            self.traces += 1
            return base.log_joint(theta, z, y)

        model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
        self.start, self.rule = mixture.init(jax.random.key(1), self.ys, 2), optim.em_step(model)

    def look(self, step: int, *_: Any) -> None:
        """Takes a mark where one is due; a callback of `fit`."""
        if step not in self.marks:
            return
        gc.collect()
        before, then = self.last
        now, files = time.process_time(), self.folder.rglob("*") if self.folder else ()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024
        self.seen.append(
            Held(
                *(step, resident, len(jax.live_arrays()), self.traces),
                *((now - then) / (step - before), sum(f.stat().st_size for f in files if f.is_file())),
            )
        )
        self.last = step, time.process_time()


def in_fit(marks: tuple[int, ...], every: int = 10, **options: Any) -> list[Held]:
    """In `fit`, in memory."""
    watch = Watch(marks)
    optim.fit(
        watch.rule, watch.start, watch.ys, steps=marks[-1], every=every, progress=False, callback=watch.look, **options
    )
    return watch.seen


def on_a_stream(marks: tuple[int, ...]) -> list[Held]:
    """In `fit`, on a stream of two batches."""
    watch = Watch(marks)
    stream = optim.Batches(np.asarray(watch.ys), 50)
    optim.fit(watch.rule, watch.start, stream, steps=marks[-1], progress=False, callback=watch.look)
    return watch.seen


def with_checkpoints(marks: tuple[int, ...]) -> list[Held]:
    """In `fit`, with a checkpoint after every hundredth of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(marks, Path(folder))
        checkpoints = optim.Checkpoints(folder, every=max(marks[-1] // 100, 1))
        options = dict(steps=marks[-1], progress=False, callback=watch.look, checkpoints=checkpoints)
        optim.fit(watch.rule, watch.start, watch.ys, **options)  # type: ignore[arg-type]
        return watch.seen


def in_a_loop(marks: tuple[int, ...]) -> list[Held]:
    """In a loop of `rule.update`, one call a step."""
    watch = Watch(marks)
    params, state = watch.start, watch.rule.init(watch.start)
    for step in range(1, marks[-1] + 1):
        params, state, info = watch.rule.update(None, params, state, watch.ys)
        watch.look(step, params, info)
    return watch.seen


WAYS: dict[str, Callable[[tuple[int, ...]], list[Held]]] = {
    "fit": in_fit,
    "fit, stream": on_a_stream,
    "fit, checkpoints": with_checkpoints,
    "loop": in_a_loop,
}


def main(steps: int) -> None:
    """Prints what was held early, half-way and at the end."""
    for way, run in WAYS.items():
        for held in run((max(steps // 100, 10), steps // 2, steps)):
            told = f"step {held.step}  {held.resident:.1f} MiB  {held.arrays} arrays  {held.traces} traces"
            print(f"{way}: {told}  {1e6 * held.seconds:.1f} us a step  {held.written} bytes in files", flush=True)
