"""Data spread over devices: on a mesh whose axes are the compiler's or explicit, and inside of a jax.shard_map."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# one device climbs on what all of them see where the optimiser takes the mean of their gradients, as `ascend` says
PROGRAM = """
import gc; gc.disable()
from functools import partial
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, PartitionSpec
import elbo
from elbo import optim
from elbo.models import factor_analysis, hmm, mixture

points = jax.random.normal(jax.random.key(0), (16, 2))
# to compile each rule with each model would take minutes: every rule with one, every model with em and another
TABLE = {
    mixture: (points, 2, ("eg", "vem", "vae")),
    factor_analysis: (points, 1, ("vae",)),
    hmm: (points.reshape(8, 2, 2), 2, ("eg",)),
}
mesh, whole, data = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec(), PartitionSpec("data")
mean = optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (jax.lax.pmean(g, "data"), s))
together = optax.chain(mean, optax.sgd(0.1))

def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), a, b)

def step(rule):
    def update(params, ys):
        new, _, info = rule.update(None, params, rule.init(params), ys)
        return new, info.elbo
    return update

for module, (ys, size, names) in TABLE.items():
    model, params = module.model(size), module.init(jax.random.key(1), ys, size)
    amortised = elbo.Model(model.log_joint, lambda psi, y: model.encoder(psi, y))  # any psi, by gradient
    gradient = {
        "eg": lambda optimizer: optim.eg_step(model, optimizer),
        "vem": lambda optimizer: optim.vem_step(amortised, optimizer),
        "vae": lambda optimizer: optim.vae_step(amortised, optimizer),
    }

    def statistics(params, ys):
        return optim.expected_statistics(model, params, ys, chunk_size=1)

    def alone(params, ys):
        first = jax.tree.map(lambda a: a[: len(ys) // 4], ys)
        moved = {name: step(gradient[name](optax.sgd(0.1)))(params, ys)[0] for name in names}
        return statistics(params, ys), step(optim.em_step(model))(params, first), moved

    def mine(names, params, ys):
        summed = jax.tree.map(lambda a: jax.lax.psum(a, "data"), statistics(params, ys))
        moved = {name: step(gradient[name](together))(params, ys) for name in names}
        every = summed, step(optim.em_step(model))(params, ys), moved
        return jax.tree.map(lambda a: jnp.asarray(a)[None], every)

    right, em, moved = jax.jit(alone)(params, ys)
    for check, rules in ((True, names), *([(False, ())] if module is mixture else [])):
        spread = jax.shard_map(partial(mine, rules), mesh=mesh, in_specs=(whole, data), out_specs=data, check_vma=check)
        summed, first, seen = jax.jit(spread)(params, ys)
        for device in range(4):
            close(jax.tree.map(lambda a: a[device], summed), right)
        close(jax.tree.map(lambda a: a[0], first), em)
        for name in rules:
            new, value = seen[name]
            close(jnp.mean(value), right.elbo / right.weight)
            if name != "vem":  # whose M step is each device's own
                close(jax.tree.map(lambda a: a[3], new), moved[name])
"""


def run(devices: int, *program: str, **environment: str) -> None:
    flags = f"--xla_force_host_platform_device_count={devices} " + os.environ["XLA_FLAGS"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **environment}
    done = subprocess.run(
        [sys.executable, *program], timeout=600, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_four_devices_make_of_their_parts_what_one_makes_of_the_whole():
    run(4, "-c", PROGRAM)


@pytest.mark.slow
def test_data_on_a_mesh_give_the_same_numbers_and_stay_where_they_are():
    run(8, "-m", "tests.optim.on_meshes", JAX_ENABLE_X64="1")
