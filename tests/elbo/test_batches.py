"""What jax.vmap(encoder) returns is a batch of posteriors: their methods raise on it, and answer under jax.vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo.models.hmm_vae import Framewise
from elbo.posteriors import AlignmentPosterior, TreePosterior

KEY = jax.random.key(0)
DATA = 3  # as many as every other size, so that nothing is noticed by chance


def encoders():
    """Of a number y: posteriors of each kind, in sizes of DATA."""
    vector, table = jnp.arange(3.0), jnp.ones((3, 3))
    frames = jnp.eye(3)
    return {
        "Categorical": lambda y: elbo.CategoricalPosterior(y * vector),
        "group": lambda y: elbo.CategoricalPosterior(y * table),
        "Bernoulli": lambda y: elbo.BernoulliPosterior(y * vector),
        "Normal": lambda y: elbo.NormalPosterior(y * vector, vector),
        "one number": lambda y: elbo.NormalPosterior(y, y),
        "matrix": lambda y: elbo.NormalPosterior(y * table, 0 * y),
        "MultivariateNormal": lambda y: elbo.MultivariateNormalPosterior(y * vector, frames),
        "Chain": lambda y: elbo.posteriors.ChainPosterior(y * vector, table, table, jnp.array(3)),
        "GaussianChain": lambda y: elbo.posteriors.GaussianChainPosterior.from_precision(
            y * table, jnp.stack([2 * frames] * 3), jnp.zeros((2, 3, 3))
        ),
        "Alignment": lambda y: AlignmentPosterior(y * table, jnp.zeros(1, bool), jnp.array(3), jnp.array(1)),
        "Tree": lambda y: TreePosterior(y * jnp.ones(1), jnp.ones((1, 3, 3)), jnp.ones((3, 2)), jnp.array(3)),
        "Nested": lambda y: elbo.Nested(
            elbo.NormalPosterior(y * vector, vector), y, lambda y, x: elbo.CategoricalPosterior(y * x)
        ),
        "Framewise": lambda y: Framewise(elbo.NormalPosterior(y * table, 0 * table), jnp.array(3)),
    }


METHODS = {
    "entropy": lambda q, z: q.entropy(),
    "log_prob": lambda q, z: q.log_prob(z),
    "mean": lambda q, z: q.mean(),
    "mode": lambda q, z: q.mode(),
    "sample": lambda q, z: q.sample(KEY),
    "log_partition": lambda q, z: q.log_partition(),
    "support": lambda q, z: q.support(),
    "relaxed": lambda q, z: q.relaxed(KEY, 0.5),
    "covariance": lambda q, z: q.covariance(),
    "cross_covariances": lambda q, z: q.cross_covariances(),
    "expect_quadratic": lambda q, z: q.expect_quadratic(lambda z: jnp.sum(z**2)),
    "kl": lambda q, z: elbo.kl(q, q),
    "Exact": lambda q, z: elbo.ClosedForm()(lambda z: sum(jnp.sum(a) for a in jax.tree.leaves(z)), q),
}


@pytest.mark.parametrize("name", encoders())
def test_methods_raise_on_a_batch_and_answer_for_each_datum(name):
    encoder = encoders()[name]
    ys = jnp.arange(1.0, DATA + 1)
    qs = jax.eval_shape(jax.vmap(encoder), ys)
    zs = jax.eval_shape(jax.vmap(lambda y: encoder(y).sample(KEY)), ys)
    tested = {m: f for m, f in METHODS.items() if m in ("kl", "Exact") or hasattr(qs, m)}
    if name == "Nested":
        tested = {m: tested[m] for m in ("log_prob", "mode", "sample")}
    if name == "GaussianChain":  # its arrays are answers for each datum already
        tested = {
            m: tested[m] for m in ("entropy", "log_prob", "sample", "expect_quadratic", "kl", "cross_covariances")
        }
    if name in ("group", "Framewise", "Tree"):
        tested.pop("support", None), tested.pop("kl")
    for f in tested.values():
        with pytest.raises(ValueError, match=r"use jax\.vmap over a batch"):
            jax.eval_shape(f, qs, zs)
    one = jax.eval_shape(lambda q, z: {m: f(q, z) for m, f in tested.items()}, *jax.eval_shape(_first, qs, zs))
    each = jax.eval_shape(jax.vmap(lambda q, z: {m: f(q, z) for m, f in tested.items()}), qs, zs)
    assert jax.tree.map(lambda a: (DATA, *a.shape), one) == jax.tree.map(lambda a: a.shape, each)


def _first(*trees):
    return jax.tree.map(lambda a: a[0], trees)


def test_values_under_vmap_are_those_of_each():
    qs = jax.vmap(encoders()["Categorical"])(jnp.arange(3.0))
    each = [elbo.CategoricalPosterior(y * jnp.arange(3.0)).entropy() for y in range(3)]
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda q: q.entropy()))(qs), each, rtol=1e-6)
    # made by hand, a batch is a group of variables, and may be taken apart
    np.testing.assert_allclose(elbo.CategoricalPosterior(qs.logits).entropy(), sum(each), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda q: q.entropy())(elbo.CategoricalPosterior(qs.logits)), each, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_wherever_the_axis_of_the_data_is(axis):
    qs = jax.vmap(encoders()["Categorical"], out_axes=axis)(jnp.arange(3.0))
    with pytest.raises(ValueError, match=r"logits: got \[3, 3\], a batch where one datum .* has 1 axis"):
        qs.mean()


def test_values_of_another_shape_are_refused():
    for name in ("Categorical", "Bernoulli", "Normal", "MultivariateNormal"):
        q = encoders()[name](jnp.array(1.0))
        for z in (jnp.array(1), jnp.ones((2, 3)), jnp.ones(1)):
            with pytest.raises(ValueError, match=r"z: got shapes .*, expected \[\[3\]\]; use jax\.vmap"):
                q.log_prob(z)


def test_numbers_that_are_no_floats_are_refused():
    for make in (elbo.CategoricalPosterior, elbo.BernoulliPosterior, lambda a: elbo.NormalPosterior(a, jnp.zeros(2))):
        with pytest.raises(ValueError, match=r"got int32\[2\], expected the floating-point numbers"):
            make(jnp.arange(2)).mean()
    with pytest.raises(ValueError, match=r"loc, log_scale: got shapes \[\[2\], \[3\]\]"):
        elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(3)).entropy()


def test_one_log_scale_for_several_numbers():
    ours, full = elbo.NormalPosterior(jnp.ones(3), jnp.array(0.5)), elbo.NormalPosterior(jnp.ones(3), jnp.full(3, 0.5))
    for m in ("entropy", "log_prob", "sample", "expect_quadratic"):
        np.testing.assert_allclose(METHODS[m](ours, jnp.ones(3)), METHODS[m](full, jnp.ones(3)), rtol=1e-6)
