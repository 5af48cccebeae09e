"""What people see: parameters in their own terms, a result in two lines, its history as a table and a picture."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, mixture
from elbo.models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson

FAMILIES = {
    "Bernoulli(probabilities=[[0.25]])": Bernoulli.create(jnp.array([[0.25]])),
    "Categorical(probabilities=[0.25 0.75])": Categorical.create(jnp.array([0.25, 0.75])),
    "Normal(mean=[1. 2.], scale=[0.5 1. ])": Normal.create(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0])),
    "Poisson(rate=[[3.]])": Poisson.create(jnp.array([[3.0]])),
    "MultivariateNormal(mean=[0.], covariance=[[4.]])": MultivariateNormal.create(jnp.zeros(1), jnp.array([[4.0]])),
    "LinearGaussian(weights=[[2.]], bias=[1.], scale=[0.5])": LinearGaussian.create(
        jnp.array([[2.0]]), jnp.ones(1), jnp.array([0.5])
    ),
}


@pytest.mark.parametrize(
    ("text", "family"), FAMILIES.items(), ids=lambda p: p.split("(")[0] if isinstance(p, str) else ""
)
def test_families(text, family):
    assert repr(family) == text
    seen = []
    jax.eval_shape(lambda f: seen.append(repr(f)) or 0, family)
    assert "float32[" in seen[0] and "Traced" not in seen[0]
    assert type(family).__name__ in repr(jax.tree.map(lambda a: None, family))  # no arrays
    large = jax.tree.map(lambda a: jnp.broadcast_to(a, (300, *a.shape)), family)
    assert "float32[300" in repr(large) and len(repr(large)) < 200


def test_params():
    theta = {"a": jnp.ones(1)}
    assert repr(elbo.Params.tied(theta)).endswith("psi=the same)")
    assert repr(elbo.Params(theta, jax.tree.map(jnp.copy, theta))).endswith("psi=the same)")
    assert repr(elbo.Params(theta, {"a": jnp.zeros(1)})).count("Array") == 2
    assert repr(elbo.Params(theta)).endswith("psi=None)")


def test_a_result(tmp_path):
    key = jax.random.key(0)
    ys = jax.random.normal(key, (20, 1)) + 4 * (jnp.arange(20) % 2)[:, None]
    result = optim.fit(optim.em_step(mixture.model(2)), mixture.init(key, ys, 2), ys, steps=3, progress=False)
    first, rest = str(result).split("\n", 1)
    assert first.startswith("3 steps, MAX_STEPS, -") and rest.startswith("Params(theta=Theta(weights=Categorical(")
    assert f"{result.reason}" == "MAX_STEPS" and result.reason == 1
    result.write_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["objective"]) for row in rows], result.history.objective, rtol=1e-6)
    figure = result.plot()
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), result.history.objective)
    with pytest.raises(ValueError, match="history: is None"):
        result._replace(history=None).plot()


def test_programs_say_where_their_time_goes():
    ys = jnp.ones((2, 3, 1)) * jnp.arange(3.0)[:, None]
    rule, params = optim.em_step(hmm.model(2)), hmm.init(jax.random.key(0), ys, 2)
    text = jax.jit(lambda p, ys: rule.update(None, p, (), ys)).lower(params, ys).as_text(debug_info=True)
    for scope in ("e_step", "m_step", "ChainPosterior."):
        assert scope in text, scope
