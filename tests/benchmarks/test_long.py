"""Long runs hold what short ones hold, but for a row of history a step."""

import numpy as np
import pytest

from benchmarks import long
from elbo.optim import Info
from elbo.optim._history import History

MARKS = (200, 1000, 2000)


@pytest.mark.parametrize("way", ["fit", "loop"])
def test_2000_steps_are_traced_once_and_hold_what_200_hold(way):
    seen = long.WAYS[way](MARKS)
    assert [held.step for held in seen] == list(MARKS)
    assert len({held.traces for held in seen}) == 1 and len({held.arrays for held in seen}) == 1


def test_a_stream_and_checkpoints():
    for way, marks in (("fit, stream", (20, 60, 100)), ("fit, checkpoints", (100, 300, 500))):
        seen = long.WAYS[way](marks)
        assert len({held.traces for held in seen}) == 1 and len({held.arrays for held in seen}) == 1
    # three checkpoints at a time, and the rows: a row a step, and none twice
    rows = [held.written for held in seen]
    assert abs((rows[2] - rows[1]) - 200 * 26) < 1500, rows


def test_history_is_what_was_added():
    rng, history, blocks = np.random.default_rng(0), History(), []
    for count in rng.integers(0, 700, 20):
        blocks.append(Info(*(rng.normal(size=count) for _ in Info._fields)))
        history.add(blocks[-1])
    for name, column in zip(Info._fields, history.rows(0, history.count), strict=True):
        np.testing.assert_array_equal(column, np.concatenate([getattr(b, name) for b in blocks]))
    assert history.rows(3, 3) is None and len(history.rows(5, 9).elbo) == 4
