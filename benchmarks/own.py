"""Your rule and model, timed: `python -m benchmarks run --model package.module:function`."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim

from . import measure, programs
from .measure import amount, duration

FIELDS = ("rule", "params", "ys", "key", "weights")


class Subject(NamedTuple):
    """What is timed: `rule.update(key, params, state, ys, weights=weights)`, where key and weights may be None."""

    rule: optim.Rule
    params: elbo.Params
    ys: Any
    key: jax.Array | None = None
    weights: jax.Array | None = None


class Report(NamedTuple):
    """What was measured.

    Attributes:
      compile_s: to trace and compile a step.
      median_s, minimum_s: of a step, over the rounds.
      flops, bytes: of a step, by the instructions that ran on a CPU; elsewhere as the compiler counts, which takes the
        body of a loop once.
      counted: which of the two.
      arguments, temporary: bytes that the program holds: its data and parameters with the new ones, and what it needs
        besides.
      device_peak: bytes in use at most on the device, None on a CPU.
      gemm, memory: the machine's rates in the same run, FLOP/s of a product of matrices and bytes/s of a sum of arrays.
      before, after: the objective per datum, nats, of the parameters given and after `steps`.
      steps: that were taken while the time was.
      dropped: data that the last step dropped.
    """

    compile_s: float
    median_s: float
    minimum_s: float
    flops: float | None
    bytes: float | None
    counted: str
    arguments: int | None
    temporary: int | None
    device_peak: int | None
    gemm: float
    memory: float
    before: float
    after: float
    steps: int
    dropped: int


def load(name: str) -> Subject:
    """What the function `package.module:function` returns.

    Raises:
      ValueError: for a name of another form, a module or function that is not there, or another return value; it says
        what was given and what is expected.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"--model: got {name!r}, expected package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing != module_name and not module_name.startswith(f"{missing}."):
            raise  # the module is there, and imports one that is not
        raise ValueError(
            f"--model: found no module {missing!r}, expected one that is installed or lies in the working directory"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        there = sorted(n for n, thing in vars(module).items() if callable(thing) and not n.startswith("_"))
        raise ValueError(
            f"--model: got {function_name!r}, which is {'no function' if hasattr(module, function_name) else 'not'} in "
            f"{module_name}; expected one of {', '.join(there) or 'its functions, of which it has none'}"
        )
    return subject(function(), name)


def subject(value: Any, name: str = "the function") -> Subject:
    """What a function returned, checked: a tuple (rule, params, ys), or a mapping or NamedTuple with these names.

    Raises:
      ValueError: where it is none.
    """
    expected = "(rule, params, ys), or a dict or NamedTuple of rule, params, ys and, where needed, key and weights"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        unknown, absent = sorted(set(value) - set(FIELDS)), [f for f in FIELDS[:3] if f not in value]
        if unknown or absent:
            told = [f"without {', '.join(absent)}"] * bool(absent) + [f"with {', '.join(unknown)}"] * bool(unknown)
            raise ValueError(f"{name}: returned a {type(value).__name__} {' and '.join(told)}, expected {expected}")
        found = Subject(**value)
    elif isinstance(value, tuple) and len(value) == 3:
        found = Subject(*value)
    else:
        length = f" of {len(value)}" if isinstance(value, tuple) else ""
        raise ValueError(f"{name}: returned a {type(value).__name__}{length}, expected {expected}")
    for field, kind, such_as in (
        ("rule", optim.Rule, "elbo.optim.em_step(model)"),
        ("params", elbo.Params, "elbo.Params.tied(theta)"),
    ):
        got = getattr(found, field)
        if not isinstance(got, kind):
            raise ValueError(f"{name}: {field} is a {type(got).__name__}, expected {such_as}")
    try:
        size = elbo.extend.batch_length(found.ys)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if found.weights is not None and np.shape(found.weights) != (size,):
        raise ValueError(
            f"{name}: weights have the shape {list(np.shape(found.weights))}, expected [{size}], one a datum"
        )
    return found


def time_of(given: Subject, *, rounds: int = 7, gemm: int | None = None, burst: float = 0.2) -> Report:
    """Compiles a step, takes it many times in turns with a product of matrices and a sum of arrays, and measures.

    Args:
      given: see `Subject`.
      rounds, burst: as in `measure.interleave`.
      gemm: size of the matrices; by default one that fills the machine.

    Raises:
      ValueError: for a rule that needs a key and got none.
    """
    rule, params, ys, key, weights = given
    params, ys, weights = jax.tree.map(jnp.asarray, (params, ys, weights))

    def step(i, params, state, ys, weights):
        at = None if key is None else jax.random.fold_in(key, i)
        return i + 1, *rule.update(at, params, state, ys, weights=weights)

    carry = jnp.zeros((), jnp.int32), params, rule.init(params)
    try:
        compiled = measure.compile_program(jax.jit(step), *carry, ys, weights)
    except TypeError as error:
        if key is None and "key" in str(error):
            raise ValueError(f"key: got None, expected a key for a rule that samples: {error}") from error
        raise
    run, last = _steps(compiled.call, carry, ys, weights)
    before = compiled.call(*carry, ys, weights)[-1]
    if jax.default_backend() == "cpu":
        done = programs.work(compiled.call.as_text(), programs.watched(compiled.call, *carry, ys, weights))
        flops, bytes_, counted = done.flops, done.bytes, "by the instructions that ran"
    else:
        flops, bytes_, counted = compiled.flops, compiled.bytes, "by the compiler: the body of a loop once"
    product, stream = measure.gemm(gemm), measure.stream(None if gemm is None else gemm**2)
    times = measure.interleave(
        {"step": run, "gemm": product.run, "stream": stream.run}, rounds=rounds, burst=burst, rest=burst / 4
    )
    (taken, *_), info = last()
    memory = compiled.call.memory_analysis()
    held = None if memory is None else int(memory.argument_size_in_bytes + memory.output_size_in_bytes)
    return Report(
        compiled.seconds,
        *(times["step"].median, times["step"].minimum, flops, bytes_, counted, held, compiled.temporary),
        measure.device_peak(),
        *(product.flops / times["gemm"].minimum, stream.bytes / times["stream"].minimum),
        *(float(before.objective), float(info.objective), int(taken) - 1, int(info.dropped)),
    )


def _steps(program: Callable, carry: tuple, *rest: Any) -> tuple[Callable[[int], None], Callable[[], tuple]]:
    """`run(count)`, which goes on from where it was, and what came last: the carry, and the info of one step more."""
    now = carry

    def run(count):
        nonlocal now
        for _ in range(count):
            now = program(*now, *rest)[: len(carry)]
        jax.block_until_ready(now)

    def last():
        *after, info = program(*now, *rest)
        return tuple(after), info

    return run, last


def text(name: str, report: Report) -> str:
    """A line for each thing that was measured."""
    r = report

    def share(work: float | None, rate: float) -> str:
        return "unknown" if work is None else f"{work / r.minimum_s / rate:.1%}"

    lines = [
        ("compile", duration(r.compile_s)),
        ("step", f"{duration(r.median_s)} (median), {duration(r.minimum_s)} (minimum)"),
        ("FLOP", f"{amount(r.flops)}, {r.counted}"),
        ("bytes touched", f"{amount(r.bytes, 'B')}, {r.counted}"),
        ("memory", f"{amount(r.arguments, 'B')} of arguments and results, {amount(r.temporary, 'B')} besides"),
        *([("device peak", amount(r.device_peak, "B"))] if r.device_peak else []),
        ("of GEMM", f"{share(r.flops, r.gemm)} of {amount(r.gemm, 'FLOP/s')}"),
        (
            "of bandwidth",
            f"{share(r.bytes, r.memory)} of {amount(r.memory, 'B/s')}; above 100 % what is read is in a cache",
        ),
        ("objective", f"{r.before:.6g} to {r.after:.6g} nats a datum in {r.steps:,} steps, {r.dropped} data dropped"),
    ]
    if not np.isfinite(r.after):
        lines.append(("", "the objective is not finite: what was timed is no fit"))
    return "\n".join([name, *(f"  {head:<14} {line}" for head, line in lines)])


def main(name: str, rounds: int = 7) -> None:
    """Prints what was measured of `package.module:function`."""
    print(text(name, time_of(load(name), rounds=rounds)))
