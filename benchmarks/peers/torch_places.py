"""Where torch runs: on the CPU with one thread and with two, or on the GPU if JAX uses one."""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Place(NamedTuple):
    """A device, with what a table calls it; threads on a CPU."""

    label: str
    device: str
    threads: int = 1

    def repeated(self, once: Callable[[], object]) -> Callable[[int], None]:
        """`run(count)` of a function here; waits for the last."""
        import torch

        def run(count):
            torch.set_num_threads(self.threads)
            for _ in range(count):
                once()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return run


def places() -> list[Place]:
    """Set XLA_PYTHON_CLIENT_PREALLOCATE=false, or JAX leaves torch a quarter of a GPU."""
    import torch

    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return [Place("GPU", "cuda")]
    return [Place("1 thread", "cpu", 1), Place("2 threads", "cpu", 2)]
