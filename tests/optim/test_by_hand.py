"""em_step against EM written by hand in numpy, and against scikit-learn, iteration by iteration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

import elbo
from elbo import optim
from elbo.models import factor_analysis, mixture, ppca
from elbo.models.families import Categorical, MultivariateNormal, Normal

from ..problems import LARGER, VALUES, random_weights, start, without_floor

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 4


@jax.jit
def joints(theta, ys):
    """ln P(z, y) [N, K]."""
    return jax.nn.log_softmax(theta.weights.logits) + jax.vmap(theta.components.log_prob)(*ys)


def responsibilities(model, theta, ys):
    """q(z|y) [N, K], from densities evaluated one by one and normalised by scipy."""
    joint = np.asarray(joints(theta, ys if isinstance(ys, tuple) else (ys,)))
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), logsumexp(joint, axis=1)


def gaussian_by_hand(q, ys, kind):
    count = q.sum(0)
    mean = q.T @ ys / count[:, None]
    residual = ys[:, None] - mean
    full = np.einsum("nk,nki,nkj->kij", q, residual, residual) / count[:, None, None]
    covariance = {
        "full": full,
        "tied": np.einsum("k,kij->ij", count, full) / count.sum(),
        "spherical": np.trace(full, axis1=1, axis2=2)[:, None, None] / ys.shape[1] * np.eye(ys.shape[1]),
        "normal": np.stack([np.diag(np.diag(c)) for c in full]),
    }[kind]
    return {"mean": mean, "covariance": covariance}


def regression_by_hand(q, ys, spherical):
    y, x = (np.asarray(a) for a in ys)
    design = np.concatenate([np.ones((len(x), 1)), x], 1)
    out = {"coefficients": [], "variance": []}
    for w in q.T:
        root = np.sqrt(w)[:, None]
        coefficients = np.linalg.lstsq(root * design, root * y, rcond=None)[0]
        variance = w @ (y - design @ coefficients) ** 2 / w.sum()
        out["coefficients"].append(coefficients)
        out["variance"].append(np.full_like(variance, variance.mean()) if spherical else variance)
    return {k: np.stack(v) for k, v in out.items()}


def by_hand(name, q, ys):
    """The M step by textbook formulas, as moments that do not depend on the parametrisation."""
    if name == "categorical":
        counts = q.T @ np.eye(VALUES)[np.asarray(ys)]
        return {"probabilities": counts / counts.sum(1, keepdims=True)}
    if name == "bernoulli":
        return {"probabilities": q.T @ np.asarray(ys) / q.sum(0)[:, None]}
    if name == "poisson":
        return {"rate": q.T @ np.asarray(ys) / q.sum(0)[:, None]}
    if name.startswith("regression"):
        return regression_by_hand(q, ys, name.endswith("spherical"))
    return gaussian_by_hand(q, np.asarray(ys), name)


@partial(jax.jit, static_argnums=0)
def moments(name, f):
    """The same moments of a family."""
    if name in ("categorical", "bernoulli"):
        return {"probabilities": f.probabilities()}
    if name == "poisson":
        return {"rate": f.rate()}
    if name == "normal":
        return {"mean": f.mean, "covariance": jnp.stack([jnp.diag(s**2) for s in f.scale()])}
    if name.startswith("regression"):
        bias = f.bias - jnp.einsum("kdp,p->kd", f.weights, f.centre)
        coefficients = jnp.concatenate([bias[:, None], jnp.swapaxes(f.weights, 1, 2)], 1)
        return {"coefficients": coefficients, "variance": f.scale() ** 2}
    return {"mean": f.mean, "covariance": f.covariance()}


MIXTURES = "categorical bernoulli poisson normal full tied spherical regression regression-spherical".split()


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_every_family(name):
    model, params, ys = start(name, seed=8, sizes=LARGER)
    params = without_floor(params)
    weights = random_weights(np.random.default_rng(0), LARGER.data)
    rule = optim.em_step(model, chunk_size=7)  # not a divisor of the data
    step = jax.jit(lambda params: rule.update(None, params, (), ys, weights=jnp.asarray(weights)))
    for _ in range(STEPS):
        q, evidence = responsibilities(model, params.theta, ys)
        q = q * weights[:, None]
        params, _, info = step(params)
        np.testing.assert_allclose(info.elbo, weights @ evidence / weights.sum(), rtol=1e-10)
        np.testing.assert_allclose(params.theta.weights.probabilities(), q.sum(0) / q.sum(), rtol=1e-10)
        expected = by_hand(name, q, ys)
        for key, value in moments(name, params.theta.components).items():
            scale = np.abs(expected[key]).max()
            np.testing.assert_allclose(value, expected[key], rtol=1e-9, atol=1e-10 * scale, err_msg=f"{name} {key}")


@pytest.mark.parametrize("name", ["factor-analysis", "ppca"])
def test_factor_analysis_is_rubin_and_thayers(name):
    """Rubin & Thayer 1982, with the mean among the unknowns: regress y on (1, E z) with E z zᵀ."""
    model, params, ys = start(name, seed=8, sizes=LARGER)
    rule, y = optim.em_step(model), np.asarray(ys)
    for _ in range(STEPS):
        f = params.theta.observation
        loading, noise = np.asarray(f.weights), np.asarray(f.scale()) ** 2
        gain = loading.T @ np.linalg.inv(loading @ loading.T + np.diag(noise))
        z = (y - np.asarray(f.bias)) @ gain.T
        spread = np.eye(loading.shape[1]) - gain @ loading
        design = np.concatenate([np.ones((len(y), 1)), z], 1)
        second = design.T @ design
        second[1:, 1:] += len(y) * spread
        coefficients = np.linalg.solve(second, design.T @ y)
        variance = np.mean(y**2 - (design @ coefficients) * y, 0)
        params, _, _ = rule.update(None, params, (), ys)
        new = params.theta.observation
        np.testing.assert_allclose(new.bias, coefficients[0], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(new.weights, coefficients[1:].T, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(new.scale() ** 2, variance.mean() if name == "ppca" else variance, rtol=1e-8)


@pytest.mark.parametrize("kind", ["full", "tied", "spherical", "diag"])
def test_scikit_learn_takes_the_same_steps(kind):
    rng = np.random.default_rng(0)
    ys = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3)) + 5 * rng.integers(0, 2, (60, 1))
    mean, variance = ys[:3], float(ys.var())
    peer = GaussianMixture(
        3,
        covariance_type=kind,
        **dict(weights_init=np.full(3, 1 / 3), means_init=mean, reg_covar=0, tol=0, max_iter=1, warm_start=True),
        precisions_init={
            "full": np.tile(np.eye(3) / variance, (3, 1, 1)),
            "tied": np.eye(3) / variance,
            "spherical": np.full(3, 1 / variance),
            "diag": np.full((3, 3), 1 / variance),
        }[kind],
    )
    if kind == "diag":
        components = Normal.create(jnp.asarray(mean), jnp.full((3, 3), variance**0.5))
    else:
        covariance = {
            "full": jnp.tile(variance * jnp.eye(3), (3, 1, 1)),
            "tied": variance * jnp.eye(3),
            "spherical": jnp.full(3, variance),
        }[kind]
        components = MultivariateNormal.create(jnp.asarray(mean), covariance, covariance_type=kind)
    theta = mixture.Theta(Categorical.create(jnp.full(3, 1 / 3)), components)
    params, rule = elbo.Params.tied(theta), optim.em_step(mixture.model(3))
    step = jax.jit(lambda params: rule.update(None, params, (), jnp.asarray(ys)))
    for _ in range(6):
        params, _, info = step(params)
        with pytest.warns(match="did not converge"):
            peer.fit(ys)
        got = moments("normal" if kind == "diag" else kind, params.theta.components)
        covariances = peer.covariances_
        if kind == "diag":
            covariances = np.stack([np.diag(v) for v in covariances])
        elif kind == "spherical":
            covariances = covariances[:, None, None] * np.eye(3)
        np.testing.assert_allclose(got["mean"], peer.means_, rtol=1e-8)
        np.testing.assert_allclose(got["covariance"], covariances, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(params.theta.weights.probabilities(), peer.weights_, rtol=1e-8)
        np.testing.assert_allclose(info.elbo, peer.lower_bound_, rtol=1e-8)
        np.testing.assert_allclose(
            elbo.evidence(mixture.model(3))(params, jnp.asarray(ys)).mean(), peer.score(ys), rtol=1e-8
        )


def test_scikit_learns_factor_analysis_has_the_same_optimum():
    # its steps maximise over the loadings given the noise, by an SVD: only the end can agree
    model, params, ys = start("factor-analysis", seed=0, sizes=LARGER._replace(data=200))
    ours = optim.run(optim.em_step(model), params, ys, steps=20_000, tolerance=1e-13)
    peer = FactorAnalysis(LARGER.components, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(np.asarray(ys))
    np.testing.assert_allclose(ours.history.elbo[int(ours.steps) - 1], peer.score(np.asarray(ys)), rtol=1e-6)


def test_ppca_reaches_the_closed_form():
    _, params, ys = start("ppca", seed=2, sizes=LARGER._replace(data=200))
    best_theta, best = ppca.maximum_likelihood(ys, LARGER.components)
    result = optim.run(optim.em_step(ppca.model(LARGER.components)), params, ys, steps=5000, tolerance=1e-14)
    np.testing.assert_allclose(result.history.elbo[int(result.steps) - 1], best, rtol=1e-9)
    evidence = elbo.evidence(ppca.model(LARGER.components))(elbo.Params.tied(best_theta), ys)
    np.testing.assert_allclose(evidence.mean(), best, rtol=1e-12)
    weights, expected = result.params.theta.observation.weights, best_theta.observation.weights
    np.testing.assert_allclose(weights @ weights.T, expected @ expected.T, rtol=1e-3, atol=1e-3)
    assert factor_analysis.sample(jax.random.key(0), best_theta, 5)[1].shape == (5, ys.shape[1])
