"""The arithmetic of `demo law` on made-up runs, and one problem from end to end."""

import jax
import numpy as np

from benchmarks.demo import law


def row(name, rate, em, lbfgs, adam=1000.0, anderson=10.0, measured=None):
    costs = {"EM": em, "Anderson": anderson, "SQUAREM": 20.0, "L-BFGS": lbfgs, "Adam": adam}
    nowhere = dict.fromkeys(costs, 0.0)
    return law.Row(name, "mixture", rate, rate if measured is None else measured, costs, nowhere, 0.1)


def test_a_rate_is_read_off_the_gains():
    values = -(0.95 ** (2 * np.arange(300.0)))
    np.testing.assert_allclose(law.measured(values[None] - 3), 0.95, rtol=1e-4)
    assert np.isnan(law.measured(np.zeros((1, 50))))


def test_the_crossing_parts_what_can_be_parted():
    rows = [row("a", 0.5, 10, 50), row("b", 0.9, 40, 45), row("c", 0.99, 400, 60), row("d", 0.999, 4000, 90)]
    cut, wrong, far = law.crossing(rows)
    assert 0.01 < cut < 0.1 and wrong == far == 0
    rows.append(row("e", 0.3, 90, 50))
    assert law.crossing(rows)[1:] == (1, 1)


def test_the_sentence_tells_what_failed():
    rows = [row("a", 0.5, 10, 50, measured=0.6), row("b", 0.6, 10, 30, anderson=12.0), row("c", 0.995, 400, 60)]
    text = law.figures(rows)["conclusion"]
    assert "2 of 3 problems (a)" in text and "40.0 times fewer" in text and "2 of 2" not in text and "(b)" in text


def test_one_problem_from_end_to_end(monkeypatch):
    monkeypatch.setattr(law, "STEPS", {"EM": 400, "Anderson": 60, "SQUAREM": 150, "L-BFGS": 20, "Adam": 50})
    with jax.enable_x64(True):
        problem = law.two_poissons(4)
    (found,) = law.compute(lambda name: None, [problem])
    np.testing.assert_allclose(found.measured, found.rate, rtol=0.05)
    assert found.costs["Anderson"] < found.costs["EM"] < 400
    assert law.table([found]).row_count == 1
