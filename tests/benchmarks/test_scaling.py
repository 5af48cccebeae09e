"""What a compiled program does is counted by what ran, over devices too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import programs, scaling
from benchmarks.__main__ import main

A = jnp.ones((16, 16))


def work(function, *args):
    compiled = jax.jit(function).lower(*args).compile()
    return programs.work(compiled.as_text(), programs.watched(compiled, *args))


@pytest.mark.parametrize(
    ("function", "args", "flops"),
    [
        (lambda a: a @ a, (A,), 2 * 16**3),
        (lambda a: jax.lax.fori_loop(0, 7, lambda i, a: a @ a, a), (A,), 7 * 2 * 16**3),
        (
            lambda a, n: jax.lax.fori_loop(0, n, lambda i, a: a @ a, a),
            (A, 5),
            5 * 2 * 16**3,
        ),  # as long as a number says
        (lambda a, b: a * b + a, (A, A), 2 * 16**2),
        (lambda a: jax.lax.scan(lambda c, x: (c + x, c * x), a[0], a), (A,), 16 * 2 * 16),
    ],
    ids=["product", "loop", "loop of any length", "elementwise", "scan"],
)
def test_flops_are_those_that_ran(function, args, flops):
    assert work(function, *args).flops == flops


def test_bytes_are_those_of_the_parts_that_are_read():
    assert work(lambda a, b: a + b, A, A).bytes == 3 * A.nbytes
    long = jnp.ones(20_000)
    cut = work(lambda a, i: jax.lax.dynamic_slice_in_dim(a, i, 10) + 1, long, 5)
    assert 2 * 40 <= cut.bytes < 400


def test_families_spread_over_devices():
    """Twice the devices do half the work each, reduce the same bytes, and send no datum."""
    costs = scaling.collect(["mixture"], (1, 2), {"mixture": 512})["mixture"]
    (alone, one), (spread, half) = [(c, c.work) for c in costs]
    assert (alone.devices, spread.devices) == (1, 2) and alone.count == spread.count == 512
    assert one.reduced == one.reductions == 0
    statistics = 16 * (1 + 16 + 16 * 16) + 16  # of components, and of their weights
    assert 4 * statistics <= half.reduced < 4.2 * statistics and 1 <= half.reductions < 10
    assert half.moved == 0
    assert 1.8 < one.flops / half.flops < 2.01  # the M step is done by each
    text = scaling.table({"mixture": costs})
    assert "MFLOP a device, on 1, 2" in text and f"{half.reduced:,}" in text and "travel" not in text


def test_enough_data_are_those_that_outweigh_the_rest():
    """1 MFLOP a datum, and 50 that every device does."""
    alone, spread = [
        scaling.Cost(100, n, programs.Work(flops=1e8 / n + 5e7, bytes=0, reductions=3, reduced=10**6, moved=0))
        for n in (1, 4)
    ]
    data = 1e6 / scaling.RATE * scaling.enough(alone, spread)
    rest = 3 * scaling.WAIT + 2e6 / scaling.BANDWIDTH + 5e7 / scaling.RATE
    np.testing.assert_allclose(data / (data + rest), 0.9, rtol=1e-3)


def test_unknown_models_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["scaling", "--only", "nothing"])
    assert "expected some of mixture" in capsys.readouterr().err
