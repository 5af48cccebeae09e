"""Fixtures for all tests."""

import gc
import os
from pathlib import Path

import jax
import jaxlib
import pytest
from hypothesis import HealthCheck, settings

from elbo._platform import REMEDY, WRONG_NUMBERS

# Most of the suite's time is compilation. XLA's optimisations, which the numbers depend on, stay; code generation takes
# the cheap way: LLVM does not optimise, and the emitter of fusions that goes through MLIR (half of the time) stays out.
# An XLA_FLAGS of your own goes before this. XLA ends the process at a flag that it does not know.
QUICK = "--xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
if jaxlib.__version__ in WRONG_NUMBERS:
    QUICK += f" {REMEDY}"
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=0 {QUICK}")

# The rest is tracing, a fifth of which would go to a collector that looks at all programs made so far, again and again,
# and a part to a traceback for each of their operations.
gc.set_threshold(50_000, 20, 20)
jax.config.update("jax_traceback_in_locations_limit", 0)
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # in processes that tests start, too

# Always the same examples: a failure is the code's, not the draw's. The fixtures below hold no state of an example.
settings.register_profile(
    "elbo",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("elbo")


def pytest_collection_finish():
    """What was imported stays: the collector need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Gives compiled programs back now and then: each holds some of the 65,530 mappings that a process may have."""
    yield
    held = Path("/proc/self/maps")
    if held.exists() and held.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 throughout the test. For a whole file: `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    """A PRNG key, always the same."""
    return jax.random.key(0)
