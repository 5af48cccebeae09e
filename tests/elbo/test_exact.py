import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbo
from elbo import StructureError

from . import problems
from .problems import normal


def test_mixture_responsibilities(x64):
    p = problems.mixture()
    theta = jax.tree.map(np.asarray, p.params.theta)
    weighted = np.exp(theta["logits"]) * np.array(
        [[scipy.stats.multivariate_normal(m).pdf(y) for m in theta["means"]] for y in p.ys]
    )
    q = jax.jit(jax.vmap(p.model.encoder, (None, 0)))(p.params.theta, p.ys)
    np.testing.assert_allclose(jax.vmap(lambda q: q.mean())(q), weighted / weighted.sum(1, keepdims=True), atol=1e-12)


def test_bits(x64):
    p = problems.bits()
    prior = 1 / (1 + np.exp(-np.asarray(p.params.theta)))
    on, off = prior * scipy.stats.norm(1, 1).pdf(p.ys), (1 - prior) * scipy.stats.norm(0, 1).pdf(p.ys)
    q = jax.jit(jax.vmap(p.model.encoder, (None, 0)))(p.params.theta, p.ys)
    np.testing.assert_allclose(jax.vmap(lambda q: q.mean())(q), on / (on + off), atol=1e-12)


def test_a_group_of_categoricals(x64):
    potentials = normal(0, 4, 3)
    log_joint = lambda theta, z, y: jnp.sum(z * (theta + y))
    q = elbo.exact(log_joint, elbo.categorical(4, 3))(potentials, 1.0)
    np.testing.assert_allclose(q.mean(), jax.nn.softmax(potentials), atol=1e-14)


def test_gaussian_equals_dense_conditioning(x64):
    """Condition the joint Gaussian of (z, y) on y."""
    p = problems.linear_gaussian()
    theta = jax.tree.map(np.asarray, p.params.theta)
    w = theta["w"]
    gain = w.T @ np.linalg.inv(w @ w.T + np.diag(np.exp(2 * theta["log_noise"])))
    q = jax.jit(jax.vmap(p.model.encoder, (None, 0)))(p.params.theta, p.ys)
    np.testing.assert_allclose(q.loc, (np.asarray(p.ys) - theta["b"]) @ gain.T, atol=1e-12)
    covariance = jax.vmap(lambda q: q.covariance())(q)
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(2) - gain @ w, covariance.shape), atol=1e-12)
    np.testing.assert_array_equal(jnp.triu(q.scale_tril, 1), 0)


def test_a_log_joint_that_is_not_concave_has_no_gaussian_posterior():
    q = jax.jit(elbo.exact(lambda theta, z, y: theta * z @ z, elbo.gaussian(2)))(jnp.array(1.0), 0.0)
    assert jnp.isnan(q.scale_tril).any()


@pytest.mark.parametrize("structure", [elbo.categorical(3), elbo.bernoulli(3)], ids=repr)
@pytest.mark.parametrize("f", [lambda z: z @ z, lambda z: jnp.exp(z).sum(), lambda z: z.max(), jnp.argmax])
def test_not_affine(structure, f):
    encoder = elbo.exact(lambda theta, z, y: theta + f(z).astype(float), structure)
    with pytest.raises(StructureError, match="not affine in z.*Write z as an indicator.*Enumerated"):
        encoder(jnp.array(1.0), 0.0)


@jax.custom_gradient
def clipped(z):
    return z, lambda c: (jnp.clip(c, -1, 1),)


@pytest.mark.parametrize(
    "structure",
    [elbo.categorical(3), elbo.bernoulli(3), elbo.chain(3), elbo.tree(1, 1), elbo.alignment(), elbo.gaussian(3)]
    + [elbo.gaussian_chain(3)],
    ids=lambda s: type(s).__name__,
)
def test_a_derivative_rule_on_the_way_of_z_is_refused(structure):
    """The potentials are read by differentiation: a rule that clips would clip them."""
    encoder = elbo.exact(lambda theta, z, y: theta * sum(jnp.sum(clipped(a)) for a in jax.tree.leaves(z)), structure)
    y = elbo.Labelled(jnp.zeros((4, 3)), jnp.array([1, 2])) if structure == elbo.alignment() else jnp.zeros((4, 3))
    with pytest.raises(StructureError, match=r"in z \(z meets the custom derivative rule of \w+, which need not"):
        jax.eval_shape(encoder, jnp.array(1.0), y)


def test_expectations_read_values_where_they_can_and_refuse_rules_elsewhere(key):
    unit = elbo.NormalPosterior(jnp.ones(2), jnp.zeros(2))
    affine, square = (lambda z: jnp.sum(3 * clipped(z))), (lambda z: jnp.sum(clipped(3 * z) ** 2))
    assert elbo.ClosedForm()(affine, unit) == 6 and elbo.Automatic().choose(affine, unit) == elbo.ClosedForm()
    with pytest.raises(StructureError, match="is quadratic in z.*the custom derivative rule of"):
        elbo.ClosedForm()(square, unit)
    with pytest.raises(StructureError, match="key: got None.*custom derivative rule.*takes Reparameterized"):
        elbo.Automatic()(square, unit)
    assert elbo.Automatic().choose(square, unit) == elbo.Reparameterized()


@pytest.mark.parametrize("f", [lambda z: jnp.sum(z**3), lambda z: jnp.tanh(z).sum(), lambda z: jax.nn.relu(z).sum()])
def test_not_quadratic(f):
    encoder = elbo.exact(lambda theta, z, y: theta + f(z), elbo.gaussian(3))
    with pytest.raises(StructureError, match=r"not quadratic in z.*elbo\.Normal"):
        jax.jit(encoder)(jnp.array(1.0), 0.0)


@pytest.mark.parametrize("structure", [elbo.categorical(3), elbo.gaussian(3)], ids=repr)
def test_log_joint_must_be_a_floating_point_scalar(structure):
    for bad, seen in [(lambda *_: jnp.ones(2), r"float32\[2\]"), (lambda *_: 1, "int32"), (lambda *_: (), "no term")]:
        with pytest.raises(ValueError, match=f"log_joint: .*{seen}.*expected"):
            elbo.exact(bad, structure)(jnp.array(1.0), 0.0)


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_dtype_follows_the_parameters(name, x64):
    """Under x64 too: float32 parameters and data give float32 everywhere, float64 ones float64."""
    p = problems.PROBLEMS[name]()
    evidence = elbo.evidence(p.model)

    def everything(theta, ys):
        q = p.model.encoder(theta, ys[0])
        return q.mean(), q.mode(), q.entropy(), q.log_prob(q.mean()), q.sample(jax.random.key(0))

    for dtype in (jnp.float32, jnp.float64):
        theta, ys = jax.tree.map(lambda a, d=dtype: a.astype(d), (p.params.theta, p.ys))
        value = evidence(elbo.Params(theta, None), ys)
        seen = (value, *jax.eval_shape(everything, theta, ys))
        assert {a.dtype for a in seen} == {jnp.dtype(dtype)}
        # float32: sums of about 10 terms of size 10
        np.testing.assert_allclose(value, p.log_evidence, rtol=1e-5 if dtype == jnp.float32 else 1e-11)


def test_potentials_of_minus_infinity():
    """The potentials are a gradient, so that even jnp.log(0) gives a posterior without NaN."""
    log_joint = lambda theta, z, y: z @ jnp.log(theta)
    q = elbo.exact(log_joint, elbo.categorical(3))(jnp.array([0.25, 0.0, 0.75]), None)
    np.testing.assert_allclose(q.mean(), [0.25, 0.0, 0.75], rtol=1e-6)
    assert jnp.isfinite(q.entropy()) and jnp.isfinite(q.log_partition())


def test_the_exact_e_step_is_a_copy():
    encoder = elbo.exact(lambda theta, z, y: z @ theta, elbo.categorical(2))
    theta = {"a": jnp.ones(2)}
    assert encoder.e_step(theta, None) is theta
