"""Data and parameters of any dtypes meet in that of the parameters; sums are taken in float32 at least."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis, hmm, mixture, vae
from elbo.models.families import Bernoulli, Categorical, Normal, Poisson

KEY = jax.random.key(0)


def mixture_of(components, ys):
    theta = mixture.Theta(Categorical(jnp.zeros(2)), components)
    return mixture.model(2), elbo.Params.tied(theta), ys


def points():  # quarters, which every dtype holds
    return jnp.round(4 * jax.random.normal(KEY, (12, 2))) / 4


def of_points(module):
    def make():
        model = module.model(2) if module is mixture else module.model(1)
        return model, module.init(KEY, points(), 2 if module is mixture else 1), points()

    return make


def of_sequences(module, **kwargs):
    def make():
        ys = points().reshape(2, 6, 2)
        return module.model(2), module.init(KEY, ys, 2, **kwargs), ys

    return make


def autoencoder():
    networks, params = vae.build(KEY, 2, 1, hidden=(3,), likelihood="gaussian")
    theta = params.theta._replace(
        network=cast(params.theta.network, jnp.bfloat16), log_scale=jnp.zeros((), jnp.float32)
    )
    return vae.model(networks, "gaussian"), elbo.Params(theta, cast(params.psi, jnp.bfloat16)), points()


MODELS = {
    "full": of_points(mixture),
    "diagonal": lambda: mixture_of(Normal(points()[:2], jnp.zeros((2, 2)), 0.01 * jnp.ones(2)), points()),
    "Bernoulli": lambda: mixture_of(Bernoulli(jnp.array([[1.0, -1], [-1, 1]])), jnp.asarray(points() > 0, float)),
    "Poisson": lambda: mixture_of(Poisson(jnp.array([[1.0, 0], [0, 1]])), jnp.abs(jnp.round(points()))),
    "Categorical": lambda: mixture_of(
        Categorical(jnp.array([[1.0, 0, -1], [-1.0, 0, 1]])), jnp.arange(12, dtype=jnp.int8) % 3
    ),
    "factors": of_points(factor_analysis),
    "hmm": of_sequences(hmm),
    "vae of bfloat16": autoencoder,
}
DTYPES = {
    "float64 data": (jnp.float64, jnp.float32),
    "float16 data": (jnp.float16, jnp.float32),
    "bfloat16": (jnp.bfloat16, jnp.bfloat16),
    "float16 parameters": (jnp.float32, jnp.float16),
}


def rule_of(name, model):
    return optim.vae_step(model, optax.adam(1e-2)) if name.startswith("vae") else optim.em_step(model)


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


@pytest.mark.parametrize("name", MODELS)
def test_dtypes_that_differ_give_about_what_float32_gives(name, x64):
    model, params, ys = MODELS[name]()
    mixed = name == "vae of bfloat16"
    ys = cast(ys, jnp.float32)
    rule = rule_of(name, model)

    def step(p, y):
        new, _, info = rule.update(KEY, p, rule.init(p), y)
        return new, info, elbo.elbo(model)(p, y, KEY)

    for of_data, of_params in DTYPES.values():
        p = params if mixed else cast(params, of_params)
        new, info, each = jax.eval_shape(step, p, cast(ys, of_data))
        assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, p)
        assert info.elbo.dtype == info.objective.dtype == info.weight.dtype == jnp.float32
    p, y = params if mixed else cast(params, jnp.float16), cast(ys, jnp.bfloat16)
    (new, info, each), single = jax.jit(lambda p, y: (step(p, y), elbo.elbo(model)(cast(p, jnp.float32), ys, KEY)))(
        p, y
    )
    assert bool(info.finite) and int(info.dropped) == 0
    assert all(np.isfinite(leaf.astype(float)).all() for leaf in jax.tree.leaves(new))
    np.testing.assert_allclose(each.astype(float), single, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(info.elbo, np.mean(single), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_em_finds_a_probability_of_0_in_a_small_dtype(dtype):
    """float16 holds no number for ln 0 but −∞."""
    model = elbo.Model(
        joint := lambda theta, z, y: jnp.sum(z) + theta.log_prob(y), elbo.exact(joint, elbo.categorical(1))
    )
    die = Categorical(jnp.zeros(3, dtype))
    rule = optim.em_step(model)
    for _ in range(2):
        params, _, info = rule.update(None, elbo.Params(die), (), jnp.array([0, 0, 1]))
        die = params.theta
        assert bool(info.finite) and die.logits.dtype == dtype
    np.testing.assert_allclose(die.probabilities().astype(float), [2 / 3, 1 / 3, 0], atol=2e-3)
