"""Compile time, steady-state time, cost and memory of programs, and the machine that they ran on."""

import contextlib
import datetime
import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PACKAGES = (
    *("elbo", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn"),
    *("numpyro", "torch", "pomegranate", "hmmlearn", "torch-struct", "nvidia-cublas-cu12"),
)
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"),
    *("XLA_FLAGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "NPROC"),
)


class Compiled(NamedTuple):
    """A compiled JAX program and what the compiler says of it.

    Attributes:
      call: the program.
      seconds: to trace, lower and compile it, from a function never called before.
      flops, bytes: floating-point operations and bytes touched, as `cost_analysis` counts: the body of a loop once.
      temporary: peak memory for temporaries, bytes.
    """

    call: Callable[..., Any]
    seconds: float
    flops: float | None
    bytes: float | None
    temporary: int | None


def compile_program(program: Callable[..., Any], *args: Any) -> Compiled:
    """Compiles a jitted function that was made just now, and takes the time."""
    begin = time.perf_counter()
    executable = program.lower(*args).compile()
    seconds = time.perf_counter() - begin
    cost = executable.cost_analysis() or {}
    memory = executable.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    return Compiled(executable, seconds, cost.get("flops"), cost.get("bytes accessed"), temporary)


def carried(compiled: Compiled, carry: tuple, *rest: Any) -> Callable[[int], None]:
    """`run(count)` of a program that maps (*carry, *rest) to (*carry, anything), going on from where it was."""
    now = carry

    def run(count):
        nonlocal now
        for _ in range(count):
            now = compiled.call(*now, *rest)[: len(carry)]
        jax.block_until_ready(now)

    return run


def repeated(program: Callable[..., Any], *args: Any) -> Callable[[int], None]:
    """`run(count)` of a JAX program on the same arguments; waits for the last."""

    def run(count):
        for _ in range(count):
            out = program(*args)
        jax.block_until_ready(out)

    return run


class Times(NamedTuple):
    """Seconds per unit of work.

    Attributes:
      median, minimum: over the rounds.
      rounds: each round.
      cpu: median of the processor time of this process, all its threads; where it is far below `median` times the
        threads, the machine was not quiet.
    """

    median: float
    minimum: float
    rounds: list[float]
    cpu: float


def interleave(
    programs: dict[str, Callable[[int], None]],
    *,
    rounds: int = 7,
    burst: float = 0.2,
    rest: float = 0.05,
    patience: float = 30,
) -> dict[str, Times]:
    """Times programs in turn, so that what slows the machine for a while slows them all.

    Args:
      programs: name to `run(count)`.
      rounds: how often each gets its turn; whoever went first goes last in the next round.
      burst: seconds of work in a turn, at least one unit.
      rest: seconds before a turn, in which idle threads of the one before fall asleep.
      patience: seconds after which a program gets no further turn, if it had three.
    """
    counts = {}
    for name, run in programs.items():
        run(1)
        counts[name] = max(1, round(burst / max(_seconds(run, 1)[0], 1e-6)))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    order = list(programs)
    for _ in range(rounds):
        for name in order:
            if len(taken[name]) >= 3 and counts[name] * sum(wall for wall, _ in taken[name]) > patience:
                continue
            time.sleep(rest)
            if counts[name] > 1:
                programs[name](1)  # brings its data back into the caches
            taken[name].append(_seconds(programs[name], counts[name]))
        order = order[1:] + order[:1]
    result = {}
    for name, pairs in taken.items():
        wall, cpu = zip(*pairs, strict=True)
        result[name] = Times(statistics.median(wall), min(wall), list(wall), statistics.median(cpu))
    return result


def _seconds(run: Callable[[int], None], count: int) -> tuple[float, float]:
    """Seconds per unit: by the clock, and of processor time."""
    begin, used = time.perf_counter(), time.process_time()
    run(count)
    return (time.perf_counter() - begin) / count, (time.process_time() - used) / count


def one_thread() -> contextlib.AbstractContextManager:
    """NumPy with one thread, so that the judge does not take minutes on a machine that is not quiet."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1)


class Gemm(NamedTuple):
    """The matrix product that stands for what the machine can do: float32, square, in full precision."""

    size: int
    flops: float
    run: Callable[[int], None]


def gemm(size: int | None = None) -> Gemm:
    """By default 2048 x 2048; 8192 x 8192 on an accelerator, which 2048 does not fill."""
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    # without HIGHEST an accelerator would take TF32 or bf16, which a likelihood cannot
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))
    return Gemm(size, 2.0 * size**3, repeated(product, a, a))


class Stream(NamedTuple):
    """The sum of two arrays that no cache holds: how fast numbers come from memory."""

    bytes: float
    run: Callable[[int], None]


def stream(size: int | None = None) -> Stream:
    """By default of 2^25 float32 numbers (134 MB each), 2^28 on an accelerator; two are read and one is written."""
    size = size or (2**25 if jax.default_backend() == "cpu" else 2**28)
    a = jnp.ones(size, jnp.float32)
    # in place, or the time would be that of getting new pages from the system
    add = compile_program(jax.jit(lambda now, a: (now + a,), donate_argnums=0), a, a)
    return Stream(12.0 * size, carried(add, (jnp.zeros_like(a),), a))


def device_peak() -> int | None:
    """Bytes in use at most on the device since the process began; None where it is not told, as on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def environment() -> dict[str, Any]:
    """What a time depends on besides the program: versions, processor, device, cores, threads."""
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "x64": bool(jax.config.jax_enable_x64),
        "packages": dict(_versions(_PACKAGES)),
        "settings": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "threads": _pools(),
    }


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in packages:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def _pools() -> list[dict[str, Any]]:
    """Thread pools of the numerical libraries that are loaded, without where they lie."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    wanted = ("internal_api", "user_api", "num_threads", "version", "architecture")
    return [{key: pool[key] for key in wanted if pool.get(key) is not None} for pool in threadpool_info()]


def duration(seconds: float | None) -> str:
    """Seconds or milliseconds, for people."""
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def amount(value: float | None, unit: str = "") -> str:
    """With a decimal prefix: 1.6 G, 12 MB."""
    if value is None:
        return "–"
    power = min(4, max(0, int(math.log10(value) // 3))) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {' kMGT'[power].strip()}{unit}"
