"""The faults of jaxlib's CPU compiler, and what the library does about them."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import pytest

import elbo
from elbo._platform import REMEDY, WRONG_NUMBERS, warn_if_unsound
from elbo.models import mixture
from elbo.models.families import Categorical, MultivariateNormal

from . import problems

ROOT = Path(__file__).parents[2]

# jax issue 39103: a dot with a constant, fused into multiply and reduce
MISCOMPILE = """
import jax, jax.numpy as jnp
y, m = jnp.ones((1797, 64)), jnp.ones((1797, 10))
f = lambda y, m: jnp.sum((y @ jnp.ones((64, 10))) * m, -1)
assert jnp.allclose(jax.jit(f)(y, m), 640.0)
"""

# two independent batched factorisations in one program, which deadlock where they are LAPACK calls
TWO_FACTORISATIONS = """
import jax, jax.numpy as jnp
from elbo.linalg import cholesky
a = jnp.broadcast_to(2.0 * jnp.eye(10), (200, 10, 10))
f = jax.jit(lambda a: cholesky(a).sum() + cholesky(a + jnp.eye(10)).sum())
for _ in range(1000):
    f(a).block_until_ready()
"""

# data on eight devices: laid out by jit on both kinds of mesh, and split by the caller's own shard_map
EIGHT_DEVICES = """
import gc; gc.disable()
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import elbo
from tests.elbo import problems

def check(f, ys):
    ys = jnp.concatenate([ys] * 8)
    expected = f(ys)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    data = PartitionSpec("data")
    for kind in (AxisType.Auto, AxisType.Explicit):  # explicit: what jax.make_mesh makes
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        sharded = jax.device_put(ys, NamedSharding(mesh, data))
        seen = f(sharded)
        jax.tree.map(close, seen, expected)
        assert seen[0].sharding.spec == data, seen[0].sharding  # every datum stayed where it was
    close(jax.jit(jax.shard_map(lambda ys: f(ys)[0], mesh=mesh, in_specs=data, out_specs=data))(sharded), expected[0])

p = problems.mixture()
value = elbo.elbo(p.model)
check(jax.jit(lambda ys: (value(p.params, ys), jax.grad(lambda params: value(params, ys).sum())(p.params))), p.ys)
gaussian = problems.linear_gaussian()
check(lambda ys: (elbo.evidence(gaussian.model)(gaussian.params, ys),), gaussian.ys)
for q in (elbo.NormalPosterior(jnp.ones(2), jnp.zeros(2)), elbo.MultivariateNormalPosterior(jnp.ones(2), jnp.eye(2))):
    model = elbo.Model(gaussian.model.log_joint, lambda psi, y: q)
    check(lambda ys: (elbo.elbo(model)(gaussian.params, ys),), gaussian.ys)
model, params, ys = problems.amortised()
sampled = elbo.elbo(model)
mesh = jax.make_mesh((8,), ("data",))
ys = jnp.concatenate([ys] * 8)
seen = sampled(params, jax.device_put(ys, NamedSharding(mesh, PartitionSpec("data"))), jax.random.key(0))
np.testing.assert_allclose(seen, sampled(params, ys, jax.random.key(0)), rtol=1e-4)
"""


def run(program: str, seconds: float, **environment: str) -> None:
    """Runs a program in a fresh process; fails where it fails or is still running after `seconds`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=seconds, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", WRONG_NUMBERS)
def test_versions_with_wrong_numbers_are_told(version):
    with pytest.warns(RuntimeWarning, match=rf"jaxlib {re.escape(version)} silently gives wrong numbers.*pip install"):
        warn_if_unsound(version, flags="")


def test_no_warning_without_a_fault():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for version in ("0.9.2", "0.10.0", "0.10.1"):
            warn_if_unsound(version, flags="")
        warn_if_unsound(WRONG_NUMBERS[-1], flags=f"--xla_backend_optimization_level=0 {REMEDY}")


def test_a_dot_with_a_constant_is_compiled_right():
    """Fails on a version that should be in WRONG_NUMBERS; on one that is, the remedy must be one."""
    run(MISCOMPILE, 120, **({"XLA_FLAGS": REMEDY} if jaxlib.__version__ in WRONG_NUMBERS else {}))


@pytest.mark.slow
def test_two_factorisations_do_not_deadlock():
    run(TWO_FACTORISATIONS, 180)


@pytest.mark.slow
def test_data_sharded_over_eight_devices():
    run(EIGHT_DEVICES, 300, XLA_FLAGS="--xla_force_host_platform_device_count=8 " + os.environ["XLA_FLAGS"])


def gaussian_mixture() -> tuple[elbo.Model, elbo.Params, jax.Array]:
    components = MultivariateNormal.create(jnp.arange(6.0).reshape(2, 3), jnp.stack([jnp.eye(3)] * 2))
    theta = mixture.Theta(Categorical.create(jnp.ones(2) / 2), components)
    return mixture.model(2), elbo.Params.tied(theta), jnp.ones((5, 3))


def lapack_calls(compiled) -> list[str]:
    return re.findall(r'custom_call_target="(lapack\w*)', compiled.as_text())


@pytest.mark.parametrize("make", [gaussian_mixture, lambda: problems.linear_gaussian()[:3]], ids=["mixture", "factors"])
def test_no_lapack_call_is_compiled(make):
    """Value and gradient. Two batched LAPACK calls in one program deadlock in jaxlib 0.10.x."""
    model, params, ys = make()
    f = jax.jit(jax.value_and_grad(lambda params: elbo.evidence(model)(params, ys).sum()))
    assert not lapack_calls(f.lower(params).compile())


def test_lapack_calls_are_seen():
    compiled = jax.jit(jnp.linalg.cholesky).lower(jnp.stack([jnp.eye(3)] * 2)).compile()
    assert jax.default_backend() != "cpu" or lapack_calls(compiled)
