"""The machinery of the timings, at sizes that say nothing about speed."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import measure, peers, run
from benchmarks.__main__ import main
from benchmarks.peers import Contender, reference
from benchmarks.problems import PROBLEMS, Target, make_vae

TOLERANCE = {"value": 1e-3}
TRUTH = {"value": np.array([1.0, 100.0])}


def contender(answer, label="peer"):
    def work(count):
        pass

    return Contender(label, "", answer, work)


# problems of the same task differ in size only
@pytest.mark.parametrize("problem", {p.task: p for p in PROBLEMS}.values(), ids=lambda p: p.name)
def test_every_problem_runs_with_every_installed_peer(problem):
    record = run.run_problem(problem, run.chosen_peers(), tiny=True, rounds=2)
    rows = record["contenders"]
    assert rows[0]["library"] == "elbo"
    assert {r["library"] for r in rows} == {"elbo", *(n for n in problem.peers if peers.missing(n) is None)}
    for row in rows:
        assert row["passed"], row["reason"]
        assert len(row["rounds_s"]) == 2 and 0 < row["minimum_s"] <= row["median_s"]
    assert rows[0]["ratio"] == 1 and rows[0]["compile_s"] > 0
    assert {t["verdict"] for t in record["targets"]} <= {"not measured"}
    json.dumps(record, allow_nan=False)
    assert problem.name in run.markdown(
        {"environment": measure.environment(), "not installed": [], "problems": [record]}
    )


def test_names_of_problems_and_their_peers_exist():
    assert len({p.name for p in PROBLEMS}) == len(PROBLEMS)
    for problem in PROBLEMS:
        assert set(problem.peers) <= set(peers.ADAPTERS)
        for library in problem.peers:
            assert problem.task in peers.adapter(library).TASKS


def fails(answer):
    return not run.check(contender(answer), TRUTH, TOLERANCE).passed


def test_gate_passes_what_is_within_the_tolerance():
    gate = run.check(contender(lambda: {"value": np.array([1.05, 100.0])}), TRUTH, TOLERANCE)
    assert gate.passed and gate.reason == ""
    assert gate.errors["value"] == pytest.approx(5e-4)


@pytest.mark.parametrize("value", [[1.2, 100.0], [np.nan, 100.0], [1.0], [[1.0, 100.0]], [np.inf, 100.0]])
def test_gate_refuses_a_wrong_answer(value):
    assert fails(lambda: {"value": np.array(value)})


def test_gate_refuses_an_answer_that_is_missing_or_raises():
    assert fails(dict)
    assert fails(lambda: 1 / 0)
    assert "ZeroDivisionError" in run.check(contender(lambda: 1 / 0), TRUTH, TOLERANCE).reason


def stub(answer):
    """The first problem with a program of ours that needs no compiling and gives `answer(data)`."""
    problem = PROBLEMS[0]

    def make(data):
        return Contender("elbo", "", lambda: answer(data), lambda count: None)

    return dataclasses.replace(problem, ours=make)


def wrong(data):
    return {name: value + 1 for name, value in PROBLEMS[0].reference(data).items()}


def test_who_fails_the_gate_is_reported_and_not_timed(capsys):
    record = run.run_problem(stub(wrong), ["scikit-learn"], tiny=True, rounds=1)
    ours, *others = record["contenders"]
    assert not ours["passed"] and ours["median_s"] is None and "off by" in ours["reason"]
    assert others and all(r["median_s"] > 0 and r["ratio"] is None for r in others)
    assert run.main([stub(wrong)], [], tiny=True, rounds=1) == 1
    assert "not timed: elbo fails the gate" in capsys.readouterr().out


def test_who_cannot_be_made_is_reported(capsys):
    def make(data):
        raise RuntimeError("cannot be made")

    assert run.main([dataclasses.replace(PROBLEMS[0], ours=make)], [], tiny=True, rounds=1) == 1
    assert "RuntimeError: cannot be made" in capsys.readouterr().out


def test_targets_are_judged_against_the_best_that_they_name():
    def row(library, label, ratio, share=None):
        return {"library": library, "label": label, "ratio": ratio, "share_of_gemm": share, "median_s": ratio}

    rows = [row("elbo", "elbo", 1.0, 0.6), row("a", "a, 1 process", 3.0), row("a", "a, 2 processes", 5.0)]

    def judged(*target):
        record = run.judge(Target("", *target), rows)
        return record["value"], record["against"], record["verdict"]

    assert judged(4) == (3.0, "a, 1 process", "missed")
    assert judged(4, ("a", "2 processes")) == (5.0, "a, 2 processes", "met")
    assert judged(0.55, ("gemm",)) == (0.6, "gemm", "met")
    assert judged(1, ("b",)) == (None, None, "not measured")
    assert run.judge(Target("", 1), rows[1:])["verdict"] == "not measured"


def test_peers_that_are_not_installed_are_named_with_the_way_to_get_them(monkeypatch, capsys):
    monkeypatch.setattr(peers.adapter("pomegranate"), "MODULE", "no_such_module")
    assert "pip install" in peers.missing("pomegranate")
    assert run.main([stub(PROBLEMS[0].reference)], ["pomegranate"], tiny=True, rounds=1) == 0
    out = capsys.readouterr().out
    assert "pomegranate: not installed" in out and "target: 4x the best peer: not measured" in out


def test_results_are_written_as_json_and_as_a_table(tmp_path):
    assert run.main([], [], tiny=True, out=tmp_path / "new") == 0
    name = jax.default_backend()
    report = json.loads((tmp_path / "new" / f"{name}.json").read_text())
    assert report["environment"]["packages"]["jax"] == jax.__version__
    assert report["problems"] == []
    assert (tmp_path / "new" / f"{name}.md").read_text().startswith("# Timings on ")


@pytest.mark.parametrize("argv", [["--only", "nothing"], ["--peers", "nobody"], ["--peers", "torch,nobody"]])
def test_unknown_names_are_refused(argv, capsys):
    with pytest.raises(SystemExit):
        main(["run", *argv])
    assert "expected" in capsys.readouterr().err


def test_interleaved_programs_take_turns():
    calls = []
    programs = {name: lambda count, name=name: calls.append((name, count)) for name in "ab"}
    times = measure.interleave(programs, rounds=2, burst=0, rest=0)
    assert calls[:4] == [("a", 1), ("a", 1), ("b", 1), ("b", 1)]  # the first calls, and how long one takes
    assert [name for name, _ in calls[4:]] == ["a", "b", "b", "a"]
    assert len(times["a"].rounds) == 2 and times["a"].minimum <= times["a"].median


def test_a_slow_program_gets_three_turns():
    calls = []
    times = measure.interleave({"slow": calls.append}, rounds=9, burst=0, rest=0, patience=0)
    assert len(times["slow"].rounds) == 3 and len(calls) == 5


def test_reference_gradient_is_that_of_its_loss():
    data = make_vae(data=4, size=5, hidden=3, latent=2)
    layers = [[w.astype(np.float64) for w in layer] for layer in (*data.encoder, *data.decoder)]

    def loss():
        return reference.vae(layers[:2], layers[2:], data.ys, data.eta)[0]

    _, gradient = reference.vae(layers[:2], layers[2:], data.ys, data.eta)
    step = 1e-6
    for parameter, slope in zip([w for layer in layers for w in layer], gradient, strict=True):
        for index in list(np.ndindex(parameter.shape))[::7]:
            value = parameter[index]
            parameter[index] = value + step
            above = loss()
            parameter[index] = value - step
            below = loss()
            parameter[index] = value
            assert (above - below) / (2 * step) == pytest.approx(slope[index], rel=1e-5, abs=1e-8)


def test_reference_em_climbs():
    data = PROBLEMS[0].make(**PROBLEMS[0].tiny)
    params = data.weights, data.means, data.covariances
    values = [reference.mixture_log_likelihood(data.ys, *reference.mixture_em(data.ys, *params, n)) for n in range(5)]
    assert np.all(np.diff(values) > 0)
