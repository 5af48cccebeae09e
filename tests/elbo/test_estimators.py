import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import Automatic, ClosedForm, Enumerated, Reparameterized, StructureError
from elbo._estimators import expect_terms

from .problems import normal, within

AFFINE = lambda z: z @ jnp.arange(3.0) + 1
QUADRATIC = lambda z: z @ z
OTHER = lambda z: jnp.exp(z).sum()
CATEGORICAL = elbo.CategoricalPosterior(jnp.arange(3.0))
GROUP = elbo.CategoricalPosterior(jnp.ones((2, 3)))
NORMAL = elbo.NormalPosterior(jnp.ones(3), jnp.zeros(3))


@pytest.mark.parametrize(
    ("q", "f", "expected"),
    [
        (CATEGORICAL, AFFINE, ClosedForm()),
        (CATEGORICAL, QUADRATIC, Enumerated()),
        (CATEGORICAL, OTHER, Enumerated()),
        (elbo.BernoulliPosterior(jnp.ones(3)), OTHER, Enumerated()),
        (NORMAL, AFFINE, ClosedForm()),
        (NORMAL, QUADRATIC, ClosedForm()),
        (NORMAL, OTHER, Reparameterized()),
        (elbo.MultivariateNormalPosterior(jnp.ones(3), jnp.eye(3)), QUADRATIC, ClosedForm()),
    ],
)
def test_automatic_takes_the_best(q, f, expected, key):
    assert Automatic().choose(f, q) == expected
    np.testing.assert_array_equal(Automatic()(f, q, key), expected(f, q, key))


@pytest.mark.parametrize(
    ("q", "size"),
    [
        (CATEGORICAL, 3),
        (elbo.CategoricalPosterior(jnp.zeros(1024)), 1024),
        (elbo.CategoricalPosterior(jnp.zeros(1025)), 1025),
        (GROUP, None),
        (elbo.BernoulliPosterior(jnp.zeros(10)), 1024),
        (elbo.BernoulliPosterior(jnp.zeros(16)), 65536),
        (elbo.BernoulliPosterior(jnp.zeros(20)), None),
        (elbo.BernoulliPosterior(jnp.zeros((2, 2))), None),
    ],
)
def test_automatic_enumerates_few_values_and_no_shape_that_support_refuses(q, size):
    assert elbo._estimators.support_size(q) == size
    f, other = (lambda z: jnp.exp(z).sum()), elbo.ScoreFunction(4)
    few = size is not None and size <= 1024
    assert Automatic(other).choose(f, q) == (Enumerated() if few else other)
    assert Automatic(other).choose(jnp.sum, q) == ClosedForm()
    if not few:
        with pytest.raises(StructureError, match="no estimator fits.*" + ("" if size is None else f"{size:,} values")):
            Automatic()(f, q)


def test_only_the_terms_that_need_it_are_sampled(key):
    """A prior and a decoder of 12 bits: the one is exact to the last bit, also inside of a Nested posterior."""
    q = elbo.BernoulliPosterior(normal(2, 12))
    terms = lambda z: (elbo.BernoulliPosterior(jnp.zeros(12)).log_prob(z), jnp.tanh(z).sum())
    other = elbo.ScoreFunction(2)
    prior, decoder = expect_terms(terms, q, Automatic(other), key)
    assert prior == ClosedForm()(lambda z: terms(z)[0], q) and decoder == other(lambda z: terms(z)[1], q, key)
    nested = elbo.Nested(NORMAL, q, lambda q, x: q)
    (values, _) = elbo._estimators.expect_with_entropy(lambda z: terms(z[1]), nested, Automatic(other), key)
    np.testing.assert_allclose(values[0], prior, rtol=1e-6)
    with pytest.raises(StructureError, match="no estimator fits a Bernoulli"):
        elbo._estimators.expect_with_entropy(lambda z: terms(z[1]), nested, Automatic(), key)


@pytest.mark.parametrize("f", [QUADRATIC, OTHER])
def test_automatic_refuses_what_nothing_fits(f):
    with pytest.raises(StructureError):
        Automatic()(lambda z: f(z.ravel()), GROUP, None)


def test_enumerated_equals_exact(x64):
    for q in (elbo.CategoricalPosterior(normal(0, 3)), elbo.BernoulliPosterior(normal(1, 3))):
        exact, enumerated = (
            jax.jit(jax.value_and_grad(lambda q, e=e: e(AFFINE, q, None)))(q) for e in (ClosedForm(), Enumerated())
        )
        for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(enumerated), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_enumerated_skips_values_of_probability_zero():
    q = elbo.CategoricalPosterior(jnp.array([0.0, -jnp.inf]))
    value, slope = jax.value_and_grad(lambda q: Enumerated()(lambda z: jnp.log(z[0]), q, None))(q)
    assert value == 0 and jnp.isfinite(slope.logits).all()


def test_expectations_of_pytrees(key):
    f = lambda z: {"a": z.sum(), "b": (z[0], 2 * z[1])}
    for q, estimators in [(CATEGORICAL, (ClosedForm(), Enumerated())), (NORMAL, (ClosedForm(), Reparameterized(3)))]:
        for estimator in estimators:
            value = estimator(f, q, key)
            assert jax.tree.structure(value) == jax.tree.structure(f(q.mean()))
    squares = ClosedForm()(lambda z: (z[0] ** 2, z @ z), NORMAL, None)
    np.testing.assert_allclose(squares, (2.0, 6.0), rtol=1e-6)


def test_samples_are_averaged(key):
    values = jax.vmap(lambda k: Reparameterized(3)(OTHER, NORMAL, k))(jax.random.split(key, 2000))
    assert within(values, 3 * np.exp(1.5))


def test_terms_share_their_samples(key):
    a, b = expect_terms(lambda z: (jnp.tanh(z).sum(), -jnp.tanh(z).sum()), NORMAL, Automatic(), key)
    assert a == -b


def test_errors(key):
    with pytest.raises(StructureError, match="is quadratic in z.*Categorical.*silently wrong.*Enumerated"):
        ClosedForm()(QUADRATIC, CATEGORICAL, None)
    with pytest.raises(StructureError, match=r"needs a posterior with support\(\), got Normal"):
        Enumerated()(OTHER, NORMAL, None)
    with pytest.raises(ValueError, match="key: got None"):
        Reparameterized()(OTHER, NORMAL, None)
    with pytest.raises(ValueError, match="samples: got 0"):
        Reparameterized(0)
    with pytest.raises(StructureError, match="samples of CategoricalPosterior are not differentiable"):
        Reparameterized()(OTHER, CATEGORICAL, key)
