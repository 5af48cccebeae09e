import jax
import jax.numpy as jnp
import pytest

import elbo
from elbo import Params, check_model

from . import problems
from .problems import amortised

LOG_JOINT = lambda theta, z, y: z @ (theta * y)
PARAMS = Params(jnp.array([0.3, -0.2, 0.5]), jnp.array([0.0, 0.4, 0.1]))
YS = jnp.array([1.0, -2.0, 0.5])
CATEGORICAL = elbo.Model(LOG_JOINT, elbo.exact(LOG_JOINT, elbo.categorical(3)))


def failures(model, params=PARAMS, ys=YS, key=None) -> dict[str, str]:
    report = check_model(model, params, ys, key=key)
    assert report.ok == all(check.ok for check in report.checks)
    return {check.name: check.message for check in report.checks if not check.ok}


@pytest.mark.parametrize("name", ["mixture", "linear_gaussian"])
def test_right_models_pass(name, key):
    p = problems.PROBLEMS[name]()
    report = check_model(p.model, p.params, p.ys, key=key)
    assert report.ok, str(report)
    assert "in closed form" in str(report) and "WRONG" not in str(report)
    assert ("summed over support()" in str(report)) == (name != "linear_gaussian")


def test_a_sampled_model_passes_and_says_what_needs_a_key(key):
    model, params, ys = amortised()
    report = check_model(model, params, ys, key=key)
    assert report.ok, str(report)
    assert "term 0 is quadratic in z, Automatic() takes ClosedForm()" in str(report)
    assert "term 1 is neither affine nor quadratic in z, Automatic() takes Reparameterized(samples=1)" in str(report)
    report = check_model(model, params, ys)
    assert report.ok and str(report).count("pass key=") == 3


def with_encoder(posterior) -> dict[str, str]:
    return failures(CATEGORICAL._replace(encoder=lambda psi, y: posterior(psi)), key=jax.random.key(0))


def broken(**methods):
    """A Categorical with some of its methods replaced."""
    kind = type("Broken", (elbo.CategoricalPosterior,), methods)
    return jax.tree_util.register_dataclass(kind, data_fields=["logits"], meta_fields=[])


def test_an_encoder_that_returns_no_posterior():
    assert "raised ZeroDivisionError" in with_encoder(lambda psi: 1 / 0)["encoder"]
    assert "without the methods ['sample', 'log_prob', 'entropy', 'mode']" in with_encoder(lambda psi: psi)["encoder"]
    leaf = type("Leaf", (elbo.CategoricalPosterior,), {})
    assert "a Leaf, which is no pytree; decorate it" in with_encoder(leaf)["encoder"]


def test_a_posterior_that_contradicts_itself():
    seen = with_encoder(broken(mode=lambda q: jnp.argmax(q.logits)))
    assert list(seen) == ["encoder"] and "'mode()': 'int32[]'" in seen["encoder"]
    seen = with_encoder(broken(entropy=lambda q: -q.mean() * jnp.log(q.mean())))
    assert "entropy() of a Broken is float32[3], expected a scalar" in seen["encoder"]
    seen = with_encoder(broken(log_prob=lambda q, z: z @ q.logits))
    assert "the probabilities of support() sum to 3.5" in seen["posterior"]
    seen = with_encoder(broken(entropy=lambda q: 2 * elbo.CategoricalPosterior.entropy(q)))
    assert "-log_prob - entropy averages -1.0" in seen["posterior"] and "expected equality" in seen["objective"]
    seen = with_encoder(broken(mean=lambda q: elbo.CategoricalPosterior(-5 * q.logits).mean()))
    assert "z - mean averages" in seen["posterior"]


def test_a_wrong_log_joint():
    seen = failures(elbo.Model(lambda theta, z, y: z, CATEGORICAL.encoder))
    assert "term 0 is float32[3] for one datum, expected a floating-point scalar" in seen["log_joint"]
    seen = failures(elbo.Model(lambda theta, z: z, CATEGORICAL.encoder))
    assert "raised TypeError" in seen["log_joint"]
    not_affine = lambda theta, z, y: jnp.exp(z).sum()
    assert "not affine in z" in failures(elbo.Model(not_affine, elbo.exact(not_affine, elbo.categorical(3))))["encoder"]


def test_infinities_are_explained():
    log_joint = lambda theta, z, y: z @ jnp.log(theta)
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    theta = jnp.array([1.0, 0.0])
    seen = failures(model, Params.tied(theta))
    assert "term 0 of log_joint is nan at the posterior mean of data [0, 1, 2]" in seen["finite"]
    assert "0 · (−∞) is NaN. Write elbo.safe_log(p) for jnp.log(p)" in seen["finite"]
    assert "L is NaN for data [0, 1, 2]" in seen["objective"]
    assert failures(CATEGORICAL, Params(PARAMS.theta * elbo.LOG_ZERO, PARAMS.psi), jnp.array([0.0])) == {}


def test_impossible_data_are_told():
    log_joint = lambda theta, z, y: z @ (theta + elbo.safe_log(y))
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(3)))
    report = check_model(model, PARAMS, jnp.array([1.0, 0.0]))
    assert report.ok and "data [1] are impossible at these parameters" in str(report)


def test_gradients_that_are_not_finite_are_named():
    log_joint = lambda theta, z, y: z @ jnp.where(y > 0, jnp.sqrt(y * theta["scale"]), 0) + theta["shift"] * y
    model = elbo.Model(log_joint, lambda psi, y: elbo.CategoricalPosterior(psi))
    theta = {"scale": jnp.zeros(3), "shift": jnp.ones(())}
    seen = failures(model, Params(theta, PARAMS.psi), jnp.ones(2))
    assert list(seen) == ["gradients"] and "[\".theta['scale']\"]" in seen["gradients"]


def test_dtypes(x64):
    params = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    seen = failures(CATEGORICAL, params, YS.astype(jnp.float64))
    assert "mean() is ['float64'] where the parameters are float32; cast" in seen["dtype"]


def test_many_values_and_an_estimator_of_choice():
    """30 bits are not enumerated; where log_joint is not affine, the estimator that the rules are given is tried."""
    log_joint = lambda theta, z, y: jnp.tanh(theta @ z * y)
    model = elbo.Model(log_joint, lambda psi, y: elbo.BernoulliPosterior(psi * y))
    params = Params(jnp.linspace(-0.1, 0.2, 30), jnp.linspace(-1, 1, 30))
    report = check_model(model, params, YS, key=jax.random.key(0))
    assert report.ok and "no estimator fits by itself: give the rules one, ScoreFunction" in str(report), str(report)
    report = check_model(model, params, YS, key=jax.random.key(0), estimator=elbo.ScoreFunction(4))
    assert report.ok and "the estimator is ScoreFunction(samples=4" in str(report), str(report)
    report = check_model(model, params, YS, estimator=elbo.ScoreFunction(4))
    assert report.ok and str(report).count("pass key=") == 3, str(report)
    affine = lambda theta, z, y: theta @ z * y
    report = check_model(elbo.Model(affine, elbo.exact(affine, elbo.bernoulli(30))), params, YS)
    assert report.ok and "in closed form" in str(report), str(report)


def test_unusable_arguments_raise():
    with pytest.raises(TypeError, match=r"model, params: got tuple, Params"):
        check_model(tuple(CATEGORICAL), PARAMS, YS)
    with pytest.raises(TypeError, match=r"got Model, tuple, expected"):
        check_model(CATEGORICAL, tuple(PARAMS), YS)
    with pytest.raises(ValueError, match="ys: got leaves of shapes"):
        check_model(CATEGORICAL, PARAMS, jnp.ones(()))
    with pytest.raises(ValueError, match=r"ys: data \[1\] are not usable"):
        check_model(CATEGORICAL, PARAMS, jnp.array([1.0, jnp.nan]))
    with pytest.raises(ValueError, match="tolerance: got 0"):
        check_model(CATEGORICAL, PARAMS, YS, tolerance=0.0)
