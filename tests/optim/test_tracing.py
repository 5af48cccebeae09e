"""Rules trace once, and are the same under jit, vmap, grad, x64, donated buffers and eight devices."""

import os
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

import elbo
from elbo import optim
from elbo.models import factor_analysis

from ..problems import arrays, start


def rule_table(model):
    ascent = optax.sgd(1e-2, momentum=0.9)
    em, eg = optim.em_step(model), optim.eg_step(model, ascent)
    vae = optim.vae_step(model, ascent, estimator=elbo.Reparameterized())
    return {
        "em": em,
        "em in chunks": optim.em_step(model, chunk_size=5),
        "eg": eg,
        "vem": optim.vem_step(model, ascent),
        "vae": vae,
        "chain": optim.chain(em, vae),
        "repeat": optim.repeat(eg, 2),
        "restrict": optim.restrict(eg, "theta.observation.weights"),
        "minibatches": optim.minibatches(vae, 4),
    }


RULES = list(rule_table(factor_analysis.model(2)))


def problem(name):
    model, params, ys = start("ppca")
    calls = []

    def log_joint(theta, z, y):
        calls.append(1)
        return model.log_joint(theta, z, y)

    counted = elbo.Model(log_joint, elbo.exact(log_joint, elbo.gaussian(2)))
    return rule_table(counted)[name], params, ys, calls


shared = cache(problem)  # the tests in float32 share their programs


def jitted(rule, **kwargs):
    return jax.jit(lambda key, params, state, ys: rule.update(key, params, state, ys), **kwargs)


def same(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("name", RULES)
def test_jit_changes_nothing_and_traces_once_over_many_steps_also_with_donated_buffers(name, key):
    rule, params, ys, calls = shared(name)
    step = jitted(rule, donate_argnums=(1, 2))
    state = rule.init(params)
    plain = rule.update(key, params, state, ys)
    params = jax.tree.map(jnp.copy, params)  # Ψ and Θ must not be one buffer when both are donated for the first time
    params, state, info = step(key, params, state, ys)
    same(params.theta, plain[0].theta, 1e-3, 1e-4)
    traced = len(calls)
    assert traced > 0
    for i in range(4):  # the rule's own output, where Ψ may be a copy of Θ
        params, state, info = step(jax.random.fold_in(key, i), params, state, ys + i)
    assert len(calls) == traced
    assert bool(info.finite) and np.isfinite(info.elbo)


@pytest.mark.parametrize("name", RULES)
def test_vmap_over_16_data_sets_changes_nothing(name, key):
    rule, params, ys, _ = shared(name)
    sets = ys + 0.1 * jax.random.normal(key, (16, *ys.shape))
    keys = jax.random.split(key, 16)
    together = jax.jit(jax.vmap(lambda k, y: rule.update(k, params, rule.init(params), y)))(keys, sets)
    for i in (0, 7, 15):
        alone = rule.update(keys[i], params, rule.init(params), sets[i])
        same(jax.tree.map(lambda a, i=i: np.asarray(a)[i], together), alone, 2e-3, 2e-4)


@pytest.mark.parametrize("name", RULES)
def test_dtypes_stay_what_they_are_under_x64(name, key, x64):
    for dtype in (jnp.float32, jnp.float64):
        rule, params, ys, _ = problem(name)
        params, ys = arrays(params, dtype), arrays(ys, dtype)
        new, _, info = jax.eval_shape(rule.update, key, params, rule.init(params), ys)
        assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(dtype)}
        assert info.elbo.dtype == info.objective.dtype == dtype


@pytest.mark.parametrize("name", ["repeat", "minibatches"])
def test_loops_over_rules_are_accepted_inside_of_a_shard_map(name, key):
    """Loops and branches there must say what varies from device to device: a check while tracing."""
    rule, params, ys, _ = shared(name)
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def update(params, ys):
        return jax.tree.map(lambda a: a[None], rule.update(key, params, rule.init(params), ys)[0].theta)

    whole, data = PartitionSpec(), PartitionSpec("data")
    each = jax.shard_map(update, mesh=mesh, in_specs=(whole, data), out_specs=data, check_vma=True)
    got = jax.eval_shape(each, params, ys)
    assert jax.tree.map(lambda a: a.shape[1:], got) == jax.tree.map(lambda a: a.shape, params.theta)


def test_a_step_of_em_is_differentiable(x64):
    rule, params, ys, _ = problem("em")

    def value(scale):
        return jnp.sum(rule.update(None, params, (), ys * scale)[0].theta.observation.weights ** 2)

    step = 1e-5
    difference = (value(1 + step) - value(1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(1.0), difference, rtol=1e-6)


def test_steps_of_eg_are_differentiable(x64):
    """In the start, the data and the learning rate: the posterior of a later step depends on them, too."""
    log_joint = lambda theta, z, y: z @ jax.nn.log_sigmoid(theta * (2 * y - 1))
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))

    def value(x):
        rule = optim.eg_step(model, optax.sgd(0.3 * x[0]))
        start = elbo.Params.tied(jnp.array([0.2, -0.4]) * x[1])
        return optim.run(rule, start, jnp.array([1.0, 1.0, 0.0]) * x[2], steps=3).params.theta @ jnp.array([1.0, 2.0])

    value, at, steps = jax.jit(value), jnp.ones(3), 1e-5 * jnp.eye(3)
    expected = [(value(at + e) - value(at - e)) / 2e-5 for e in steps]
    np.testing.assert_allclose(jax.grad(value)(at), expected, rtol=1e-6)


EIGHT = """
import gc; gc.disable()
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
assert jax.device_count() == 8
import elbo
from elbo import optim
from tests.optim.test_tracing import rule_table
from tests.problems import start, Sizes
model, params, ys = start("ppca", sizes=Sizes(64, 3, 2))
mesh = Mesh(np.array(jax.devices()), ("data",))
sharded = jax.device_put(ys, NamedSharding(mesh, PartitionSpec("data")))
key = jax.random.key(0)
rules = rule_table(model)
rules["em of all data at once"] = optim.em_step(model, chunk_size=None)
for name in ("em", "em in chunks", "em of all data at once", "eg", "vem", "vae"):
    rule = rules[name]
    step = jax.jit(lambda params, state, ys: rule.update(key, params, state, ys))
    one, many = (step(params, rule.init(params), y) for y in (ys, sharded))
    for a, b in zip(jax.tree.leaves(one[0].theta), jax.tree.leaves(many[0].theta)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(one[2].elbo, many[2].elbo, rtol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_eight_devices_give_the_same():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 " + os.environ["XLA_FLAGS"],
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "same" in done.stdout, done.stderr[-2000:]
