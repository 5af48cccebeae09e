"""Fixtures for all tests."""

import jax
import pytest
from hypothesis import HealthCheck, settings

# Always the same examples: a failure is the code's, not the draw's. The fixtures below hold no state of an example.
settings.register_profile(
    "elbo",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("elbo")


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Gives back every compiled program after a file: a process may hold only so many pieces of memory (65,530)."""
    yield
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
