"""Nested posteriors: the tower rule against tables, closed forms and averages over samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import Automatic, Reparameterized, StructureError
from elbo._estimators import expect_with_entropy

from .problems import normal

pytestmark = pytest.mark.usefixtures("x64")


def states(weights, x):
    return elbo.CategoricalPosterior(weights @ x)


def gaussian_outer():
    return elbo.Nested(elbo.NormalPosterior(normal(0, 2), -0.3 * jnp.ones(2)), normal(1, 3, 2), states)


def f(z):
    x, s = z
    return jnp.sin(x[0]) * jnp.sum(x**2), s @ jnp.stack([jnp.exp(x[0]), x[1], x[0] * x[1]])


def by_hand(q, x):
    """Of one x: the terms of f summed over s, and the entropy of s; in plain numpy."""
    logits = np.asarray(q.inner) @ np.asarray(x)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    values = np.array([np.exp(x[0]), x[1], x[0] * x[1]])
    return float(np.sin(x[0]) * np.sum(x**2)), float(p @ values), float(-p @ np.log(p))


@pytest.mark.parametrize("samples", [1, 3])
def test_given_the_sampled_x_it_is_the_sum_over_the_rest(samples, key):
    q = gaussian_outer()
    (a, b), entropy = expect_with_entropy(f, q, Reparameterized(samples), key)
    outer_key = jax.random.split(key)[0]
    keys = [outer_key] if samples == 1 else jax.random.split(outer_key, samples)
    rows = np.mean([by_hand(q, np.asarray(q.outer.sample(k))) for k in keys], axis=0)
    np.testing.assert_allclose([a, b, entropy - q.outer.entropy()], rows, rtol=1e-10)


def test_one_sample_is_what_automatic_takes_and_it_is_that_of_sample(key):
    q = gaussian_outer()
    automatic = expect_with_entropy(f, q, Automatic(), key)
    np.testing.assert_array_equal(automatic[0], expect_with_entropy(f, q, Reparameterized(), key)[0])
    first = by_hand(q, np.asarray(q.sample(key)[0]))
    np.testing.assert_allclose(automatic[0], first[:2], rtol=1e-10)


def test_expectation_and_entropy_are_those_of_the_joint_distribution(key):
    """Against Gauss-Hermite quadrature over x and a sum over s; 4000 samples, five standard errors."""
    q = gaussian_outer()
    draw = jax.jit(jax.vmap(lambda k: jnp.stack([*(r := expect_with_entropy(f, q, Automatic(), k))[0], r[1]])))
    each = draw(jax.random.split(key, 4000))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    loc, scale = np.asarray(q.outer.loc), np.exp(np.asarray(q.outer.log_scale))
    pairs = list(zip(nodes, weights, strict=True))
    grid = [(np.array([a, b]), u * v) for a, u in pairs for b, v in pairs]
    rows = np.array([by_hand(q, loc + scale * eta) for eta, _ in grid])
    truth = np.array([w for _, w in grid]) @ rows / (2 * np.pi)
    truth[2] += q.outer.entropy()
    error = np.std(each, 0) / 4000**0.5
    assert (np.abs(np.mean(each, 0) - truth) < 5 * error + 1e-12).all()


def test_a_discrete_outer_posterior_is_enumerated():
    """Both latents discrete: the sum over the joint table, without a key."""
    logits, table = normal(2, 2), normal(3, 3, 2)
    q = elbo.Nested(elbo.CategoricalPosterior(logits), table, states)
    coefficients = normal(4, 2, 3)
    (value,), entropy = expect_with_entropy(lambda z: (z[0] @ coefficients @ z[1],), q, Automatic(), None)
    joint = jax.nn.softmax(logits)[:, None] * jax.nn.softmax(table.T, axis=-1)
    np.testing.assert_allclose(value, jnp.sum(joint * coefficients), rtol=1e-10)
    np.testing.assert_allclose(entropy, -jnp.sum(joint * jnp.log(joint)), rtol=1e-10)


def test_a_gaussian_in_a_gaussian_is_exact():
    """−s² under s | x ~ N(x, 1), x ~ N(2, 1): −(4 + 1 + 1), without a key."""
    unit = elbo.NormalPosterior(jnp.full(1, 2.0), jnp.zeros(1))
    q = elbo.Nested(unit, jnp.zeros(1), lambda log_scale, x: elbo.NormalPosterior(x, log_scale))
    (value,), entropy = expect_with_entropy(lambda z: (-jnp.sum(z[1] ** 2),), q, Automatic(), None)
    np.testing.assert_allclose([value, entropy], [-6, np.log(2 * np.pi * np.e)], rtol=1e-12)


def test_nesting_twice(key):
    """(x, (s, r)) and ((x, s), r) are the same distribution; here of discrete x, s, r, exactly."""
    a, b, c = normal(5, 2), normal(6, 2, 2), normal(7, 2, 2)
    right = elbo.Nested(
        elbo.CategoricalPosterior(a), (b, c), lambda w, x: elbo.Nested(states(w[0], x), w[1], lambda w, s: states(w, s))
    )
    left = elbo.Nested(elbo.Nested(elbo.CategoricalPosterior(a), b, states), c, lambda w, z: states(w, z[1]))
    g = lambda x, s, r: (jnp.sum(x * s * r), jnp.sum(x * r))
    first = expect_with_entropy(lambda z: g(z[0], *z[1]), right, Automatic(), key)
    p = np.einsum("i,ji,kj->ijk", jax.nn.softmax(a), jax.nn.softmax(b, axis=0), jax.nn.softmax(c, axis=0))
    truth = (p[0, 0, 0] + p[1, 1, 1], p[0, :, 0].sum() + p[1, :, 1].sum())
    np.testing.assert_allclose(first[0], truth, rtol=1e-10)
    np.testing.assert_allclose(first[1], -np.sum(p * np.log(p)), rtol=1e-10)
    second = expect_with_entropy(lambda z: g(*z[0], z[1]), left, Automatic(), key)
    np.testing.assert_allclose([*second[0], second[1]], [*first[0], first[1]], rtol=1e-10)


def test_samples_and_log_prob_agree_with_the_entropy(key):
    q = gaussian_outer()

    def one(k):
        return -q.log_prob(q.sample(k)) - expect_with_entropy(f, q, Automatic(), jax.random.fold_in(k, 7))[1]

    gap = jax.vmap(one)(jax.random.split(key, 4000))
    assert abs(gap.mean()) < 5 * gap.std() / 4000**0.5
    x, s = q.mode()
    np.testing.assert_array_equal(s, states(q.inner, x).mode())


def test_elbo_through_jit_vmap_and_batches_is_the_same(key):
    ys, psi = normal(8, 5, 2), normal(9, 3, 2)
    log_joint = lambda theta, z, y: (-jnp.sum(jnp.cos(z[0] - y)), z[1] @ (theta @ z[0]))
    model = elbo.Model(log_joint, lambda psi, y: elbo.Nested(elbo.NormalPosterior(y, 0 * y), psi, states))
    got = elbo.elbo(model)(elbo.Params.tied(psi), ys, key)
    chunks = elbo.elbo(model, batch_size=2)(elbo.Params.tied(psi), ys, key)
    np.testing.assert_allclose(got, chunks, rtol=1e-12)
    # the states' posterior is exact here: their part is ln Σ_s
    for y, k, value in zip(ys, jax.random.split(key, 5), got, strict=True):
        x = y + jax.random.normal(jax.random.split(k)[0], (2,))
        expected = -jnp.sum(jnp.cos(x - y)) + jax.nn.logsumexp(psi @ x) + elbo.NormalPosterior(y, 0 * y).entropy()
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    copies = jax.vmap(lambda p: elbo.elbo(model)(elbo.Params.tied(p), ys, key))(jnp.stack([psi, 2 * psi]))
    np.testing.assert_allclose(copies[0], got, rtol=1e-12)


def test_what_cannot_be_is_said(key):
    chain = elbo.posteriors.ChainPosterior(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((3, 2)), jnp.array(3))
    q = elbo.Nested(chain, normal(1, 3, 2), lambda w, path: states(w, path.initial))
    term = lambda z: (jnp.exp(z[0].initial[0]) + z[1][0],)
    with pytest.raises(StructureError, match="no estimator fits a Chain"):
        expect_with_entropy(term, q, Automatic(), key)
    with pytest.raises(StructureError, match="samples of ChainPosterior are not differentiable"):
        expect_with_entropy(term, q, Reparameterized(), key)
    with pytest.raises(ValueError, match="key: got None"):
        expect_with_entropy(f, gaussian_outer(), Automatic(), None)
    with pytest.raises(StructureError, match=r"mean\(\): a Nested posterior"):
        gaussian_outer().mean()
    with pytest.raises(StructureError, match=r"entropy\(\): a Nested posterior"):
        gaussian_outer().entropy()
    inner = elbo.Nested(elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(2)), chain, lambda c, x: c)
    with pytest.raises(StructureError, match="no estimator fits a Chain"):  # not affine in the path
        expect_with_entropy(lambda z: (jnp.sum(z[1].states) ** 2,), inner, Automatic(), key)


def test_it_is_a_posterior_and_a_pytree():
    q = gaussian_outer()
    assert isinstance(q, elbo.Posterior)
    leaves, tree = jax.tree.flatten(q)
    assert len(leaves) == 3 and jax.tree.unflatten(tree, leaves).conditional is states


def test_check_model_tests_the_parts(key):
    ys = normal(2, 4, 2)
    model = elbo.Model(
        lambda theta, z, y: (-jnp.sum((y - z[0]) ** 2 + z[0] ** 2), z[1] @ (theta @ z[0])),
        lambda psi, y: elbo.Nested(elbo.NormalPosterior(psi * y, jnp.zeros(2)), normal(1, 3, 2), states),
    )
    params = elbo.Params(normal(3, 3, 2), jnp.array(0.4))
    report = elbo.check_model(model, params, ys, key=key)
    assert report.ok and "Reparameterized" in str(report), str(report)

    class Wrong(elbo.Nested):
        def log_prob(self, z):
            return super().log_prob(z) + 1

    jax.tree_util.register_dataclass(Wrong, data_fields=["outer", "inner"], meta_fields=["conditional"])
    wrong = model._replace(
        encoder=lambda psi, y: Wrong(elbo.NormalPosterior(psi * y, jnp.zeros(2)), normal(1, 3, 2), states)
    )
    broken = [c for c in elbo.check_model(wrong, params, ys, key=key).checks if not c.ok]
    assert [c.name for c in broken] == ["posterior"] and "averages -1" in broken[0].message
