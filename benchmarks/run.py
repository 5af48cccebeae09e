"""Checks that all compute the same, then times us and the peers: `python -m benchmarks run`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from . import measure
from .measure import amount as _amount
from .measure import duration as _time
from .peers import ADAPTERS, Contender, adapter, missing
from .problems import PROBLEMS, Problem, Target

Record = dict[str, Any]
OURS = "elbo"


def main(
    problems: Sequence[Problem], libraries: Sequence[str], tiny: bool = False, out: Path | None = None, rounds: int = 7
) -> int:
    """Runs the problems, prints a table for each, and writes `<backend>.json` and `<backend>.md` into `out`.

    Args:
      problems: see `chosen_problems`.
      libraries: the peers to compare with, see `chosen_peers`.
      tiny: at sizes that say nothing about speed, to try the machinery.
      out: folder for the results, None for none.
      rounds: turns of each program.

    Returns:
      Exit status: 1 if a program of ours failed its gate.
    """
    # a pipe has no width, and a table of 80 columns is unreadable
    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    wanted = [name for name in libraries if any(name in p.peers for p in problems)]
    absent = [line for line in map(missing, wanted) if line]
    for line in absent:
        console.print(line, style="yellow")
    records = []
    for problem in problems:
        console.print(f"[bold]{problem.name}[/bold]{' (tiny)' if tiny else ''}: {problem.description}")
        # or an accelerator's products would be in TF32 or bf16, which the gate does not pass
        with jax.default_matmul_precision("highest"):
            record = run_problem(problem, libraries, tiny=tiny, rounds=rounds)
        show(record, console)
        records.append(record)
    if out is not None:
        # after the runs: every library's thread pool is loaded by now
        report = {"environment": measure.environment(), "not installed": absent, "problems": records}
        for path in write(report, out):
            console.print(f"wrote {path}")
    ours = [row for record in records for row in record["contenders"] if row["library"] == OURS]
    return 0 if all(row["passed"] for row in ours) else 1


def chosen_problems(only: Sequence[str] = ()) -> list[Problem]:
    """The problems named, or all."""
    names = [p.name for p in PROBLEMS]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ValueError(f"--only: got {', '.join(unknown)}, expected some of {', '.join(names)}")
    return [p for p in PROBLEMS if not only or p.name in only]


def chosen_peers(peers: Sequence[str] = ("all",)) -> list[str]:
    """The libraries named, installed or not."""
    names = [name for part in peers for name in part.split(",")]
    if names == ["all"]:
        return list(ADAPTERS)
    if names == ["none"]:
        return []
    unknown = sorted(set(names) - set(ADAPTERS))
    if unknown:
        raise ValueError(f"--peers: got {', '.join(unknown)}, expected all, none, or some of {', '.join(ADAPTERS)}")
    return names


def run_problem(problem: Problem, libraries: Sequence[str], *, tiny: bool = False, rounds: int = 7) -> Record:
    """Checks and times one problem; a record that goes into JSON as it is."""
    sizes = problem.tiny if tiny else problem.sizes
    data = problem.make(**sizes)
    with measure.one_thread():
        reference = problem.reference(data)
    contenders, rows = gather(problem, data, libraries)
    try:
        passed = []
        for contender in contenders:
            gate = check(contender, reference, problem.tolerance)
            rows.append(_facts(contender, gate))
            if gate.passed:
                passed.append(contender)
        gemm = measure.gemm(128 if tiny else None)
        programs = {"gemm": gemm.run, **{c.label: c.run for c in passed}}
        times = measure.interleave(programs, rounds=rounds, burst=0.001 if tiny else 0.2, rest=0 if tiny else 0.05)
        peak = measure.device_peak()
    finally:
        for contender in contenders:
            contender.close()
    flops, best = problem.flops(data), gemm.flops / times["gemm"].minimum
    for contender in passed:
        row = next(r for r in rows if r["label"] == contender.label)
        taken = times[contender.label]
        row["median_s"], row["minimum_s"] = taken.median / contender.share, taken.minimum / contender.share
        row["rounds_s"], row["cpu_s"] = [t / contender.share for t in taken.rounds], taken.cpu / contender.share
        row["share_of_gemm"] = flops / row["minimum_s"] / best
    ours = next((r["median_s"] for r in rows if r["library"] == OURS), None)
    for row in rows:
        row["ratio"] = row["median_s"] / ours if ours and row["median_s"] else None
    return {
        **{
            "name": problem.name,
            "description": problem.description,
            "unit": problem.unit,
            "sizes": sizes,
            "tiny": tiny,
        },
        "analytic": {"flops": flops, "counted": problem.counted},
        "gemm": {"size": gemm.size, "best_s": times["gemm"].minimum, "flops_per_s": best},
        "device_peak_bytes": peak,
        "tolerance": problem.tolerance,
        "contenders": rows,
        # tiny sizes say nothing about speed
        "targets": [judge(target, [] if tiny else rows) for target in problem.targets],
    }


def gather(problem: Problem, data: Any, libraries: Sequence[str]) -> tuple[list[Contender], list[Record]]:
    """Ours and the installed peers', compiled; and rows for those that could not even be made."""
    makers = [(OURS, problem.ours)]
    makers += [(n, adapter(n).TASKS[problem.task]) for n in problem.peers if n in libraries and missing(n) is None]
    contenders, broken = [], []
    for name, make in makers:
        try:
            made = make(data)
        except Exception as error:  # a peer's fault must not end the run
            broken.append(_facts(Contender(name, "", dict, lambda count: None), Gate(False, {}, _line(error))))
            continue
        contenders += made if isinstance(made, list) else [made]
    return contenders, broken


class Gate(NamedTuple):
    """Whether an answer is the reference's: the relative error of each entry, and what is wrong, or ""."""

    passed: bool
    errors: dict[str, float]
    reason: str


def check(contender: Contender, reference: dict[str, Any], tolerance: dict[str, float]) -> Gate:
    """Same parameters, same steps, same answer? Who fails is not timed."""
    try:
        answer = contender.answer()
        errors = {name: relative_error(answer[name], reference[name]) for name in tolerance}
    except Exception as error:  # whatever it is, it is no answer
        return Gate(False, {}, _line(error))
    wrong = [
        f"{name}: off by {e:.1e}, allowed {tolerance[name]:.0e}"
        for name, e in errors.items()
        if not e <= tolerance[name]
    ]
    return Gate(not wrong, errors, "; ".join(wrong))


def relative_error(value: Any, reference: Any) -> float:
    """Largest |value − reference| over largest |reference|, array by array; infinite for another shape or a NaN."""
    parts, expected = jax.tree.leaves(value), jax.tree.leaves(reference)
    if [np.shape(a) for a in parts] != [np.shape(r) for r in expected]:
        return math.inf
    errors = []
    for a, r in zip(parts, expected, strict=True):
        scale = np.max(np.abs(r))
        errors.append(float(np.max(np.abs(np.asarray(a, np.float64) - r)) / (scale if scale > 0 else 1)))
    return max(errors) if np.all(np.isfinite(errors)) else math.inf


def judge(target: Target, rows: Sequence[Record]) -> Record:
    """A target with what was reached, against whom, and "met", "missed" or "not measured"."""
    ours = [r for r in rows if r["library"] == OURS and r["median_s"]]
    value, against = None, None
    if target.against == ("gemm",):
        value, against = (ours[0]["share_of_gemm"] if ours else None), "gemm"
    elif ours:
        rivals = [
            r for r in rows if r["ratio"] and r["library"] != OURS and all(w in r["label"] for w in target.against)
        ]
        if rivals:
            best = min(rivals, key=lambda r: r["ratio"])
            value, against = best["ratio"], best["label"]
    verdict = "not measured" if value is None else "met" if value >= target.least else "missed"
    return {"text": target.text, "least": target.least, "value": value, "against": against, "verdict": verdict}


def _facts(contender: Contender, gate: Gate) -> Record:
    compiled = contender.compiled
    return {
        **{"label": contender.label, "library": contender.library, "passed": gate.passed},
        **{"errors": {n: e if math.isfinite(e) else None for n, e in gate.errors.items()}, "reason": gate.reason},
        "compile_s": compiled and compiled.seconds,
        "cost_analysis": compiled and {"flops": compiled.flops, "bytes": compiled.bytes},
        "temporary_bytes": compiled and compiled.temporary,
        **{"median_s": None, "minimum_s": None, "rounds_s": [], "cpu_s": None, "share_of_gemm": None, "ratio": None},
    }


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def show(record: Record, console: Console) -> None:
    """Prints one problem's table and targets."""
    table = Table(show_edge=False, pad_edge=False)
    heads = (
        "program",
        "median",
        "minimum",
        "times ours",
        "of GEMM",
        "compile",
        "temporary",
        "compiler's FLOP",
        "bytes",
        "error",
    )
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for row in record["contenders"]:
        cost = row["cost_analysis"] or {}
        cells = (
            *(row["label"], _time(row["median_s"]), _time(row["minimum_s"]), _number(row["ratio"], "{:.2f}")),
            *(_number(row["share_of_gemm"], "{:.1%}"), _time(row["compile_s"]), _amount(row["temporary_bytes"], "B")),
            *(_amount(cost.get("flops")), _amount(cost.get("bytes"), "B"), _number(_worst(row), "{:.0e}")),
        )
        table.add_row(*cells, style=None if row["passed"] else "red")
    console.print(table)
    for row in record["contenders"]:
        if not row["passed"]:
            console.print(f"not timed: {row['label']} fails the gate: {row['reason']}", style="red", markup=False)
    console.print(_notes(record), markup=False)
    for target in record["targets"]:
        style = {"met": "green", "missed": "red"}.get(target["verdict"], "yellow")
        console.print(_verdict(target), style=style, markup=False)
    console.print()


def write(report: Record, out: Path) -> list[Path]:
    """Writes the report as JSON and as a short table, named after the backend; replaces what was there."""
    out.mkdir(parents=True, exist_ok=True)
    name = report["environment"]["backend"]
    paths = [out / f"{name}.json", out / f"{name}.md"]
    paths[0].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    paths[1].write_text(markdown(report))
    return paths


def markdown(report: Record) -> str:
    """A short table of the report, with the targets below."""
    env = report["environment"]
    packages = ", ".join(f"{n} {v}" for n, v in env["packages"].items())
    where = env["processor"] if env["backend"] == "cpu" else f"{env['device']} (host: {env['processor']})"
    lines = [
        f"# Timings on {where}, {env['cores']} cores",
        "",
        f"`python -m benchmarks run`, {env['date']}, Python {env['python']}, {packages}; thread settings: "
        f"{json.dumps(env['settings']) if env['settings'] else 'none'}; load average at the end {env['load']}.",
        "",
        "Per unit of work; the programs took turns. All start from the same parameters and were held against the same "
        'float64 reference before they were timed; "error" is the largest relative difference from it. "of GEMM" is '
        "the analytic FLOP over the minimum time, as a share of the machine's own rate of float32 matrix products in "
        "the same rounds. The full record is in the JSON file beside this one.",
        "",
        "| problem | program | median | minimum | times ours | of GEMM | compile | temporary memory | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in report["problems"]:
        for row in record["contenders"]:
            cells = (
                *(
                    record["name"],
                    row["label"],
                    _time(row["median_s"]),
                    _time(row["minimum_s"]),
                    _number(row["ratio"], "{:.2f}"),
                ),
                *(
                    _number(row["share_of_gemm"], "{:.1%}"),
                    _time(row["compile_s"]),
                    _amount(row["temporary_bytes"], "B"),
                ),
                _number(_worst(row), "{:.0e}") if row["passed"] else f"fails the gate: {row['reason']}",
            )
            lines.append("| " + " | ".join(cells) + " |")
    for record in report["problems"]:
        lines += [
            "",
            f"**{record['name']}**{' (tiny)' if record['tiny'] else ''}: {record['description']}. {_notes(record)}",
            "",
        ]
        lines += [f"- {_verdict(target)}" for target in record["targets"]]
    if report["not installed"]:
        lines += ["", *report["not installed"]]
    return "\n".join(lines) + "\n"


def _notes(record: Record) -> str:
    gemm, flops = record["gemm"], record["analytic"]["flops"]
    text = f"{_amount(flops)}FLOP per {record['unit']} on paper ({record['analytic']['counted']}); "
    text += f"GEMM {gemm['size']}³ float32: {_amount(gemm['flops_per_s'])}FLOP/s."
    if record["device_peak_bytes"]:
        text += f" Peak on the device since the process began: {_amount(record['device_peak_bytes'], 'B')}."
    return text


def _verdict(target: Record) -> str:
    if target["value"] is None:
        return f"target: {target['text']}: not measured"
    if target["against"] == "gemm":
        return f"target: {target['text']}: {target['value']:.1%}, {target['verdict']}"
    return f"target: {target['text']}: {target['value']:.2f}x ({target['against']}), {target['verdict']}"


def _worst(row: Record) -> float | None:
    errors = [e for e in row["errors"].values() if e is not None]
    return max(errors) if errors else None


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
