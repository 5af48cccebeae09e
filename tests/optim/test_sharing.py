"""share computes equal things once and changes nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elbo.optim import _common_subexpressions as sharing


def share(f):
    """f, traced and made to compute equal things once."""

    def shared(*args):
        g, consts, _ = sharing.share(f, *args)
        return g(consts, *args)

    return shared


def twice(x, key):
    inner = jax.jit(lambda a: jax.nn.softmax(jnp.sin(a)))
    noise = jax.random.normal(key, x.shape)
    looped = jax.lax.scan(lambda c, a: (c + a, jnp.cos(c)), 0.0, x)[1]
    branch = jax.lax.cond(x[0] > 0, jnp.tanh, jnp.exp, x)
    return inner(x) + inner(x) + noise * jax.nn.relu(x) + looped + branch + 2.0 * jnp.ones(3)


def test_values_and_derivatives_are_those_of_the_function(key):
    x = jnp.array([0.3, -1.0, 2.0])
    shared = share(twice)
    np.testing.assert_allclose(shared(x, key), twice(x, key), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(shared)(x, key), twice(x, key), rtol=1e-6)
    slopes = (jax.jacobian(f)(x, key) for f in (shared, twice))
    np.testing.assert_allclose(*slopes, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(shared, (0, None))(x[None], key)[0], twice(x, key), rtol=1e-6)


def count(f, name, *args):
    return str(jax.make_jaxpr(f)(*args)).count(f" {name} ")


def test_equal_operations_happen_once():
    x = jnp.arange(3.0)

    def f(x, y):
        return jnp.sin(x) + jnp.sin(x + 0.0 * 1.0) + jax.jit(jnp.sin)(x) + jnp.sin(y)

    assert count(share(f), "sin", x, x + 1) == 3  # x, x + 0, y
    same = share(lambda x: f(x, x))
    assert count(same, "sin", x) == 2


def test_different_parameters_are_not_mixed_up():
    def f(x):
        return jnp.sum(x, 0) + jnp.sum(x, 1), x.astype(jnp.int32), x.astype(jnp.float16), x + 1.0, x + 2.0

    x = jnp.arange(4.0).reshape(2, 2)
    jax.tree.map(np.testing.assert_array_equal, share(f)(x), f(x))


def test_effects_all_happen(capfd):
    def f(x):
        jax.debug.print("seen {}", x)
        jax.debug.print("seen {}", x)
        return x

    jax.block_until_ready(jax.jit(share(f))(jnp.ones(())))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen 1.0") == 2


def test_different_keys_give_different_draws():
    keys = jax.random.split(jax.random.key(0))
    a, b = share(lambda k, l: (jax.random.normal(k), jax.random.normal(l)))(*keys)  # noqa: E741
    assert a != pytest.approx(float(b))
