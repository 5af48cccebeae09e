"""Rules, starts and questions on a mesh of 8 devices against one; run by `test_devices.py` in its own process."""

import gc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import elbo
from elbo import optim
from elbo.models import hmm, hmm_inference, mixture

KEY = jax.random.key(0)
POINTS = jax.random.normal(KEY, (64, 2)) + 3 * (jnp.arange(64) % 2)[:, None]
SERIES = POINTS.reshape(16, 4, 2)
PAIR, START = mixture.model(2), mixture.init(KEY, POINTS, 2)
CHAIN, CHAIN_START = hmm.model(2), hmm.init(KEY, SERIES, 2)
AMORTISED = elbo.Model(PAIR.log_joint, lambda psi, y: PAIR.encoder(psi, y))  # any psi, by gradient
ADAM = optax.adam(0.1)
EM = optim.em_step(PAIR, chunk_size=3)  # chunks smaller than what a device holds
BOTH = optim.chain(EM, optim.restrict(optim.eg_step(PAIR, ADAM), "theta.components"))

# an exact step, a gradient, both and minibatches with one model; em with another
ROWS = {
    "em": (EM, START, POINTS),
    "vae": (optim.vae_step(AMORTISED, ADAM), START, POINTS),
    "chain": (optim.repeat(BOTH, 2), START, POINTS),
    "minibatches": (optim.minibatches(optim.damp(PAIR, EM, 0.5), 8), START, POINTS),
    "hmm": (optim.em_step(CHAIN), CHAIN_START, SERIES),
}


def close(a, b, name=""):
    def leaf(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=name)

    jax.tree.map(leaf, *jax.device_get((a, b)))


def reduced(text: str) -> int:
    """Bytes that are reduced over the devices in a compiled step."""
    results = [line.split(" all-reduce(")[0] for line in text.splitlines() if " all-reduce(" in line]
    arrays = [a for line in results for a in re.findall(r"(?:[fsu]|pred)(\d*)\[([\d,]*)\]", line)]
    return sum(int(bits or 8) // 8 * int(np.prod([int(n) for n in shape.split(",") if n])) for bits, shape in arrays)


def check(axis_type: AxisType, rows: tuple[str, ...]) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    everywhere, data = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    for name in rows:
        rule, params, ys = ROWS[name]
        right = rule.update(KEY, params, rule.init(params), ys)
        params, spread = jax.device_put((params, ys), (everywhere, data))
        with jax.set_mesh(mesh):
            step = jax.jit(lambda params, ys, rule=rule: rule.update(KEY, params, rule.init(params), ys))
            compiled = step.lower(params, spread).compile()
            close(compiled(params, spread), right, name)
            if name == "minibatches":  # whose rows are drawn from all devices
                continue
            text = compiled.as_text()
            assert not re.search("all-gather|all-to-all|collective-permute", text), (name, axis_type)
            if name == "em":
                more = jax.device_put(jnp.concatenate([ys] * 4), data)
                assert reduced(step.lower(params, more).compile().as_text()) == reduced(text) > 0
    params, points, series = jax.device_put((START, POINTS, SERIES), (everywhere, data, data))
    runs = optim.run(EM, START, POINTS, steps=3)
    close(optim.run(EM, params, points, steps=3), runs)
    close(optim.fit(EM, params, points, steps=3, progress=False).params, runs.params)
    close(mixture.init(KEY, points, 2), START)
    if axis_type is AxisType.Explicit:
        close(optim.rate(PAIR, runs.params, points).values, optim.rate(PAIR, runs.params, POINTS).values)
    for question in (hmm_inference.smooth, lambda model, params, ys: elbo.evidence(model)(params, ys)):
        right = question(CHAIN, CHAIN_START, SERIES)
        close(question(CHAIN, CHAIN_START, series), right)
        # parameters that lie on the mesh, as those of a run do
        close(question(CHAIN, jax.device_put(CHAIN_START, everywhere), series), right)


if __name__ == "__main__":
    gc.disable()  # as in conftest.py: what is traced stays until the end
    check(AxisType.Explicit, tuple(ROWS))
    check(AxisType.Auto, ("em",))
