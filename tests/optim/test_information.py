"""EM's rate and the standard errors, against the Hessian of ln P, EM's dense Jacobian, closed forms and a bootstrap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import factor_analysis, hmm, mixture
from elbo.models.families import Categorical, MultivariateNormal, Poisson
from elbo.optim._coordinates import coordinates

pytestmark = pytest.mark.usefixtures("x64")


def clouds(seed=0, size=120, apart=3.0):
    a, b = jax.random.split(jax.random.key(seed))
    return jnp.concatenate([jax.random.normal(a, (size // 2, 2)), apart + jax.random.normal(b, (size // 2, 2))])


def gaussians(covariance_type="full"):
    ys = clouds()
    return mixture.model(2), mixture.init(jax.random.key(1), ys, 2, covariance_type=covariance_type), ys


def poissons():
    ys = jnp.arange(8.0)[jax.random.randint(jax.random.key(0), (80,), 0, 8), None]
    theta = mixture.Theta(Categorical.create(jnp.array([0.4, 0.6])), Poisson.create(jnp.array([[1.0], [5.0]])))
    return mixture.model(2), elbo.Params.tied(theta), ys


def factors():
    mix = jax.random.normal(jax.random.key(2), (1, 4))
    ys = jax.random.normal(jax.random.key(0), (100, 1)) @ mix + 0.7 * jax.random.normal(jax.random.key(1), (100, 4))
    return factor_analysis.model(1), factor_analysis.init(jax.random.key(0), ys, 1), ys


def chains():
    ys = jax.random.permutation(jax.random.key(3), clouds(size=80, apart=3.0)[:, :1]).reshape(2, 40, 1)
    return hmm.model(2), hmm.init(jax.random.key(0), ys, 2), ys


ROWS = {
    "full": gaussians,
    "tied": lambda: gaussians("tied"),
    "diag": lambda: gaussians("diag"),
    "poisson": poissons,
    "factors": factors,
    "hmm": chains,
}


def fitted(model, params, ys, **options):
    rule = optim.accelerate(optim.em_step(model, **options))
    return optim.run(rule, params, ys, steps=150, tolerance=0.0).params


def log_likelihood(model, params, ys):
    at = coordinates(params)
    return at, lambda v: jnp.sum(elbo.evidence(model)(elbo.Params.tied(at.theta(v)), ys))


@pytest.mark.parametrize("name", ROWS)
def test_information_is_a_curvature_and_gives_the_rate(name):
    model, start, ys = ROWS[name]()
    params = fitted(model, start, ys)
    at, value = log_likelihood(model, params, ys)
    rule = optim.em_step(model)

    def step(v):
        return coordinates(rule.update(None, elbo.Params(at.theta(v), params.psi), (), ys)[0]).vector

    found, speed, hessian, jacobian = jax.jit(
        lambda v: (
            optim.information(model, elbo.Params(at.theta(v), params.psi), ys),
            optim.rate(model, elbo.Params(at.theta(v), params.psi), ys, count=2),
            jax.hessian(value)(v),
            jax.jacfwd(step)(v),
        )
    )(at.vector)
    np.testing.assert_allclose(found.observed, -hessian, atol=1e-7 * float(jnp.max(jnp.abs(hessian))))
    # Dempster, Laird & Rubin 1977: I_c J = I_c − I_o
    left, right = found.complete @ jacobian, found.complete - found.observed
    np.testing.assert_allclose(left, right, atol=1e-8 * float(jnp.max(found.complete)))
    dense = np.sort(np.linalg.eigvals(jacobian).real)[::-1]
    dense = dense[dense < 1 - 1e-8][:2]
    np.testing.assert_allclose(speed.values[: len(dense)], dense, atol=1e-6)
    assert speed.gain < 1e-6
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((found.errors, found.missing, speed.directions)))
    np.testing.assert_allclose(sum(jnp.sum(a[0]) for a in jax.tree.leaves(speed.shares)), 1, rtol=1e-6)


def test_two_means_in_closed_form():
    """With weights and variances known, J_kl = Σ_i r_ik (δ_kl − r_il) (y_i − m_k) (y_i − m_l) / Σ_i r_ik."""

    def log_joint(theta, z, y):
        return jnp.sum(z) * jnp.log(0.5) + z @ theta.log_prob(y)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    ys = clouds(apart=1.5)[:, :1]
    theta = MultivariateNormal.create(jnp.array([[0.0], [2.0]]), jnp.ones((2, 1, 1)), known=("covariance",))
    params = fitted(model, elbo.Params.tied(theta), ys)
    y, m = np.asarray(ys), np.asarray(params.theta.mean)[:, 0]
    r = np.exp(-0.5 * (y - m) ** 2)
    r = r / r.sum(1, keepdims=True)
    jacobian = np.array(
        [[np.sum(r[:, k] * ((k == j) - r[:, j]) * (y[:, 0] - m[k]) * (y[:, 0] - m[j])) / r[:, k].sum() for j in (0, 1)]
         for k in (0, 1)]
    )  # fmt: skip
    expected = np.sort(np.linalg.eigvals(jacobian).real)[::-1]
    np.testing.assert_allclose(optim.rate(model, params, ys, count=2).values, expected, atol=1e-6)


def test_the_rate_knows_no_units_and_says_what_ends_it():
    model, start, ys = gaussians()
    values = [optim.rate(model, fitted(model, start, ys), ys).values[0]]
    scaled = 1000 * ys + jnp.array([5e4, -1e3])
    far = mixture.init(jax.random.key(1), scaled, 2)
    values.append(optim.rate(model, fitted(model, far, scaled), scaled).values[0])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)
    measured = optim.run(optim.em_step(model), start, ys, steps=40).history.objective
    gains = jnp.diff(measured)
    at = int(jnp.argmax(gains < 1e-9))
    np.testing.assert_allclose(jnp.sqrt(gains[at] / gains[at - 1]), values[0], rtol=0.02)
    assert optim.rate(model, start, ys).gain > 1e-3
    assert "not a fixed point" in str(optim.rate(model, start, ys))


def test_rotations_are_not_slowness():
    ys = jax.random.normal(jax.random.key(0), (200, 2)) @ jax.random.normal(jax.random.key(1), (2, 6))
    ys = ys + jnp.linspace(0.5, 1, 6) * jax.random.normal(jax.random.key(2), ys.shape)
    model, start = factor_analysis.model(2), factor_analysis.init(jax.random.key(0), ys, 2)
    params = fitted(model, start, ys)
    found, speed = optim.information(model, params, ys), optim.rate(model, params, ys)
    assert speed.unidentified == 1 and 0.5 < speed.values[0] < 1 - 1e-5
    assert jnp.all(found.unidentified.observation["weights"]) and jnp.all(
        jnp.isinf(found.errors.observation["weights"])
    )
    assert jnp.all(jnp.isfinite(found.errors.observation["variance"])) and jnp.all(found.errors.observation["bias"] > 0)
    assert "not identified" in str(found)


def test_what_is_at_its_bound_is_held():
    model, start, ys = chains()
    ys = ys[:1]  # one sequence begins in one state
    found = optim.information(model, fitted(model, start, ys), ys)
    first = found.estimates.initial["probabilities"]
    held = found.bound.initial["probabilities"]
    np.testing.assert_array_equal(held, (first < 1e-3) | (first > 1 - 1e-3))
    assert jnp.all(jnp.where(held, found.errors.initial["probabilities"], 0) == 0)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(found))
    assert "held" in str(found) and "nan" not in str(found)


def test_weights_priors_and_batches():
    model, start, ys = gaussians()
    params = fitted(model, start, ys)
    twice, heavy = jnp.concatenate([ys, ys[:40]]), jnp.ones(120).at[:40].set(2.0)
    a, b = optim.information(model, params, twice), optim.information(model, params, ys, weights=heavy)
    np.testing.assert_allclose(a.observed, b.observed, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        a.covariance, optim.information(model, params, twice, chunk_size=16).covariance, rtol=1e-8
    )
    robust = [
        optim.information(model, params, d, weights=w, robust=True).covariance for d, w in [(twice, None), (ys, heavy)]
    ]
    np.testing.assert_allclose(*robust, rtol=1e-7, atol=1e-12)
    sets = jnp.stack([clouds(seed) for seed in range(16)])
    found = jax.jit(jax.vmap(lambda ys: optim.rate(model, params, ys).values))(sets)
    alone = optim.rate(model, params, sets[3]).values
    np.testing.assert_allclose(found[3], alone, rtol=1e-8)


def test_float32():
    model, start, ys = gaussians()
    rule, kinds = optim.em_step(model), (jnp.float32, jnp.float64)

    @jax.jit
    def ask(start, ys):
        params = optim.run(rule, start, ys, steps=60).params
        return optim.rate(model, params, ys).values, optim.information(model, params, ys).errors

    ys = ys.astype(jnp.float32)
    narrow, wide = (ask(*jax.tree.map(lambda a, k=kind: a.astype(k), (start, ys))) for kind in kinds)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(narrow))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), narrow, wide)


def test_errors_are_those_of_a_bootstrap():
    model, start, ys = gaussians("diag")
    params = fitted(model, start, ys)
    errors = optim.information(model, params, ys, robust=True).errors.components["mean"]
    rule = optim.em_step(model, chunk_size=None)

    def replicate(key):
        chosen = jax.random.choice(key, ys, (len(ys),))
        return optim.run(rule, params, chosen, steps=30).params.theta.components.mean

    means = jax.jit(jax.vmap(replicate))(jax.random.split(jax.random.key(0), 200))
    np.testing.assert_allclose(jnp.std(means, 0), errors, rtol=0.2)  # 200 replicates know a deviation to 5 %


@pytest.mark.parametrize("ask", [optim.rate, optim.information])
def test_models_without_exact_steps_are_refused(ask):
    theta = {"w": jnp.zeros(2)}

    def log_joint(theta, z, y):
        return z @ theta["w"] - 0.0 * y[0]

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    with pytest.raises(TypeError, match="no closed-form M step"):
        ask(model, elbo.Params.tied(theta), jnp.zeros((3, 1)))
    bare = elbo.Model(log_joint, lambda psi, y: elbo.CategoricalPosterior(psi))
    with pytest.raises(TypeError, match="no exact E step"):
        ask(bare, elbo.Params(theta, jnp.zeros(2)), jnp.zeros((3, 1)))


def test_a_summary_for_people():
    model, start, ys = gaussians("diag")
    found = optim.information(model, fitted(model, start, ys), ys)
    text = optim.summary(found, level=0.9)
    assert "90% interval" in text and "components.mean[1,0]" in text
    with pytest.raises(ValueError, match="level"):
        optim.summary(found, level=90)
