"""Data that lie on several hosts: two processes get what one gets, and the manual's program is the one that runs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "docs" / "examples" / "hosts.py"


def launch(processes: int) -> str:
    """What rank 0 prints; all ranks end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), place, str(processes), str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [rank.communicate(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, said, strict=True):
        assert rank.returncode == 0, errors[-3000:]
    return said[0][0]


def numbers(text: str) -> list[float]:
    """ln P and the means."""
    return [float(word.strip("[],")) for word in text.replace("means", "").split("ln P")[1].split()]


@pytest.mark.slow
def test_two_processes_get_what_one_gets():
    one, two = launch(1), launch(2)
    assert "1 processes, 64 data" in one and "2 processes, 64 data" in two
    np.testing.assert_allclose(numbers(two), numbers(one), rtol=1e-4)  # float32, sums taken in another order
