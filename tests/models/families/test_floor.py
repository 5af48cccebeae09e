"""The floor of a scale: one set of distributions for every rule, in any order and unit of the columns."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Categorical, LinearGaussian, MultivariateNormal, Normal

from .cases import CASES, GAUSSIAN, D, covariance, create_full, estimate, log_probs

# in units of the floors: x_1 far below, x_3 a multiple of x_1 and noise, x_2 free
RNG = np.random.default_rng(0)
THIN = RNG.normal(size=(200, 1)) * [1e-6, 0.0, 2e-5] + RNG.normal(size=(200, D)) * [0, 30.0, 5.0]
FLOOR = np.array([2.0, 0.5, 1e-3])


def raised(square, floor):
    """A covariance whose eigenvalues in units of the floor are at least 1."""
    values, vectors = np.linalg.eigh(square / np.outer(floor, floor))
    return (vectors * np.maximum(values, 1)) @ vectors.T * np.outer(floor, floor)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]], ids=str)
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_a_covariance_at_its_floor_does_not_depend_on_the_order_of_columns(kind, order):
    x, floor = (THIN * FLOOR)[:, order], FLOOR[order]
    batch = () if kind == "full" else (1,)
    start = create_full(jnp.zeros((*batch, D)), jnp.diag(jnp.asarray(floor**2 * 100)), covariance_type=kind)
    family = replace(start, floor=jnp.asarray(floor, jnp.float32))
    new = estimate(family, jnp.ones((200, *batch)), jnp.asarray(x, jnp.float32), rounds=3)
    expected = raised(np.cov(x.T, bias=True), floor)
    sd = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(covariance(new) / np.outer(sd, sd), expected / np.outer(sd, sd), rtol=1e-3, atol=1e-3)
    assert int(new.floored().sum()) == 1 and not family.floored().any()
    np.testing.assert_allclose(new.scale().reshape(D), sd, rtol=1e-3)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_below_the_floor_there_is_nothing(name):
    """Whatever a gradient step does: the density, or the projection with which the step ends, has the floor."""
    case, rng = CASES[name], np.random.default_rng(0)
    family = case.create(rng, (2,) if name != "tied" else (1,))
    data = [jnp.asarray(a, jnp.float32) for a in case.data(rng, 5)]
    field, sign = ("root", 1) if isinstance(family, MultivariateNormal) else ("log_scale", -1)
    free = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), replace(family, floor=jnp.float32(0.1)))
    np.testing.assert_allclose(log_probs(free.project(), *data), log_probs(free, *data), rtol=1e-6)
    value = getattr(free, field)
    lower = value + sign * 9 * (jnp.eye(D) if name in ("full", "tied") else 1)
    narrow = replace(free, **{field: lower})
    held = narrow.project()
    assert held.floored().all() and not free.floored().any()
    np.testing.assert_allclose(held.scale(), jnp.full(held.scale().shape, 0.1), rtol=1e-3)
    if name not in ("full", "tied"):
        np.testing.assert_allclose(log_probs(held, *data), log_probs(narrow, *data), rtol=1e-5)
        np.testing.assert_array_equal(narrow.scale(), held.scale())
    gradient = jax.grad(lambda f: log_probs(f.project(), *data).sum())(narrow)
    np.testing.assert_allclose(getattr(gradient, field), 0, atol=1e-3)
    broken = replace(free, **{field: value * jnp.nan})
    assert np.isnan(getattr(broken.project(), field)).any()  # not hidden by the floor


def em_and_lbfgs(kind):
    """ln P per datum and scales at the floor, by EM and by L-BFGS."""
    x, floor = jnp.asarray(THIN * FLOOR), jnp.asarray(FLOOR)
    if kind == "normal":
        family = Normal.create(jnp.ones((1, D)), 10 * floor[None], floor=floor)
    else:
        family = MultivariateNormal.of_scale(jnp.ones((1, D)), 10 * floor[None], floor=floor)
    model, start = mixture.model(1), elbo.Params.tied(mixture.Theta(Categorical(jnp.zeros(1)), family))
    em = optim.run(optim.em_step(model), start, x, steps=3)
    eg = optim.run(optim.eg_step(model, optax.lbfgs()), start, x, steps=200, tolerance=1e-13)
    return [[float(r.final.elbo), int(r.final.floored)] for r in (em, eg)]


def test_em_and_lbfgs_end_at_the_same_floor():
    """With XLA's own emitters: the cheap ones of these tests give this program a wrong gradient (jaxlib 0.9.2)."""
    code = "import json; from tests.models.families.test_floor import em_and_lbfgs as both; "
    code += "print(json.dumps([both(kind) for kind in ('normal', 'full')]))"
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_ENABLE_X64": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    for em, eg in json.loads(done.stdout.splitlines()[-1]):
        assert em[1] == eg[1] == 1
        assert eg[0] == pytest.approx(em[0], abs=1e-4)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("far", [1e4, 1e8])
def test_residuals_keep_their_digits_beside_a_far_component(kind, far):
    mean = jnp.array([[0.0, 1.0], [6.0, 0.0], [far, far]])
    f = MultivariateNormal.of_scale(mean, jnp.ones(2) if kind == "tied" else jnp.ones((3, 2)), covariance_type=kind)
    x = jnp.array([[0.5, 0.5], [6.5, -1.0], [far, far + 8]])
    expected = -np.log(2 * np.pi) - 0.5 * ((np.float64(x)[:, None] - np.float64(mean)) ** 2).sum(-1)
    near = np.eye(3, dtype=bool)
    np.testing.assert_allclose(np.asarray(log_probs(f, x))[near], expected[near], rtol=1e-4)
    slope = jax.jit(jax.grad(lambda f: log_probs(f, x)[0, 0]))(f)
    np.testing.assert_allclose(slope.mean[0], [0.5, -0.5], atol=1e-3 * far / 1e4)


def test_scales_whose_squares_are_no_numbers():
    for unit in (1e-30, 1e30):
        x = unit * jnp.asarray(THIN[:50] + [0, 0, 7], jnp.float32)
        for family in (
            Normal.create(x[0], jnp.full(D, 10 * unit), floor=1e-3 * unit),
            MultivariateNormal.of_scale(x[0], jnp.full(D, 10 * unit), floor=1e-3 * unit),
            LinearGaussian.create(jnp.zeros((D, 1)), x[0], jnp.full(D, 10 * unit), floor=1e-3 * unit),
        ):
            data = (x, jnp.zeros((50, 1))) if isinstance(family, LinearGaussian) else (x,)
            new = estimate(family, jnp.ones(50), *data, rounds=3)
            expected = np.maximum(np.std(THIN[:50], 0), 1e-3)
            np.testing.assert_allclose(new.scale() / unit, expected, rtol=1e-3)
