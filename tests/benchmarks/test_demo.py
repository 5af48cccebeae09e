"""The demo: each part at a tiny size, and what its claims rest on."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbo
from benchmarks import datasets, demo
from benchmarks.demo import autoencoder, clock, em_or_gradient, four_rules, mnist, series, units
from elbo.models import factor_analysis, ppca

SMALL_VAE = {"latent": 2, "hidden": (8,), "samples": 4}


def quiet(text):
    assert text


@pytest.mark.slow
def test_every_rule_climbs_towards_the_closed_form_and_not_past_it():
    rules = four_rules.compute(quiet, four_rules.Size(data=80, latent=2, em=60, eg=20, vem=60, vae=60))
    with jax.enable_x64(True):
        ys = jnp.asarray(datasets.digits()[0][:80] / 16)
        theta, best = ppca.maximum_likelihood(ys, 2)
        assert rules.best == pytest.approx(float(best), rel=1e-12)
        reached = jnp.mean(elbo.evidence(ppca.model(2))(elbo.Params.tied(theta), ys))
        assert rules.best == pytest.approx(float(reached), rel=1e-12)
    for name, climb in rules.climbs.items():
        values = climb.trace.values
        assert np.all(values <= rules.best + 1e-9), name
        assert values[-1] > values[0] + 1, name
        assert np.all(np.diff(climb.trace.seconds) > 0), name
    assert rules.best - rules.climbs["em"].trace.values[-1] < 0.1
    assert np.all(np.diff(rules.climbs["em"].trace.values) >= -1e-9)
    # one Θ to start from: the exact E step makes the difference
    assert rules.climbs["em"].trace.values[0] == rules.climbs["eg"].trace.values[0]
    assert rules.climbs["vem"].trace.values[0] == rules.climbs["vae"].trace.values[0]
    assert rules.climbs["em"].trace.values[0] > rules.climbs["vae"].trace.values[0]


@pytest.mark.slow
def test_the_methods_climb_the_same_objective_from_the_same_starts():
    steps = {"EM": 40, "L-BFGS": 30, "Adam": 60, "SGD": 60}
    problem = em_or_gradient.problems()[0]._replace(steps=steps, starts=2, trials=1)
    (contest,) = em_or_gradient.compute(quiet, [problem])
    firsts = [method.values[:, 0] for method in contest.methods.values()]
    for first in firsts:
        np.testing.assert_allclose(first, firsts[0], rtol=1e-9)
    em = contest.methods["EM"]
    assert em.values.shape == (2, 40)
    assert np.all(np.diff(em.values) >= 0)
    assert em.rate is None and contest.methods["Adam"].rate in em_or_gradient.RATES["Adam"]
    np.testing.assert_allclose(contest.methods["L-BFGS"].values[:, -1], em.values[:, -1], atol=1e-4)


def test_steps_to_the_end():
    values = np.array([[0.0, 0.5, 0.9, 1.0] + [1.0] * 8, np.linspace(0, 1, 12), [-np.inf] * 12])
    assert em_or_gradient.steps_to_end(values, 0.2).tolist() == [2, 9, np.inf]
    assert em_or_gradient.steps_to_end(values, 1e-3).tolist() == [3, np.inf, np.inf]


def contest(problem, **curves):
    """A contest of made-up curves: method = (steps until the end, height of the end, milliseconds a step)."""
    methods = {}
    for name, (steps, end, pace) in curves.items():
        values = np.where(np.arange(100) < steps, end - 1.0, end)[None]
        methods[name.replace("_", "-")] = em_or_gradient.Method(None, values, np.array([pace * 0.1]), 1.0)
    return em_or_gradient.Contest(problem, methods)


@pytest.mark.parametrize(
    ("em", "adam", "said"),
    [
        ((10, 0.0, 1.0), (40, 0.0, 1.0), ("holds on most", "EM is 4.0 times as fast as Adam", "ends as high as")),
        ((20, 0.0, 1.0), (40, 0.0, 1.0), ("holds on none", "EM is 2.0 times as fast as Adam")),
        ((40, 0.0, 1.0), (10, 0.0, 1.0), ("holds on none", "Adam 4.0 times as fast as EM")),
        ((10, 0.0, 1.0), (40, 0.5, 1.0), ("holds on none", "EM ends 0.5 nats below Adam")),
        ((10, 0.0, 1.0), (5, -0.5, 1.0), ("holds on most", "only EM gets to 1e-3")),
        ((99, 0.0, 1.0), (40, 0.0, 1.0), ("holds on none", "Adam gets, EM does not, to 1e-3")),
    ],
)
def test_the_conclusion_is_what_the_numbers_say(em, adam, said):
    slow = (99, -0.3, 1.0)
    text = em_or_gradient.conclusion([contest(em_or_gradient.problems()[0], EM=em, L_BFGS=slow, Adam=adam, SGD=slow)])
    for part in said:
        assert part in text


@pytest.mark.slow
def test_scores_of_the_digits_are_in_the_same_units():
    # as many to validate as to fit: one program for both
    size = autoencoder.Size(train=300, validate=150, rounds=2, epochs=2, draws=1, em=5, **SMALL_VAE)
    digits = autoencoder.compute(quiet, size)
    assert set(digits.scores) == {"PPCA", "factor analysis", "VAE, noise shared", "VAE, noise per pixel"}
    for score in digits.scores.values():
        assert score.bound.shape == (1797 - 300,)
        assert np.all(np.isfinite(score.bound))
    for name in ("VAE, noise shared", "VAE, noise per pixel"):
        assert np.mean(digits.scores[name].tighter) > np.mean(digits.scores[name].bound)
    assert all(rows.shape == (12, 8, 8) for rows in digits.pictures.values())


def test_bits_per_dimension():
    # uniform over 17 grey levels: density 1 on an interval of length 1 for each pixel
    assert autoencoder.bits(0.0, 64, 17) == pytest.approx(math.log2(17))
    assert autoencoder.bits(-64 * math.log(2), 64, 1) == pytest.approx(1.0)


def test_the_importance_weighted_bound_is_ln_p_where_q_is_exact(x64):
    ys = jax.random.normal(jax.random.key(0), (16, 4))
    params = factor_analysis.init(jax.random.key(1), ys, 2)
    model = factor_analysis.model(2)
    bound = autoencoder.importance_weighted(model, 3)(params, ys, jax.random.key(2))
    np.testing.assert_allclose(bound, elbo.evidence(model)(params, ys), rtol=1e-9)


def test_latents_to_match_agrees_with_the_models_own_evidence(x64):
    ys, test = np.split(np.random.default_rng(0).normal(size=(60, 6)) @ np.diag([3, 2, 1.5, 1, 1, 1]), [40])
    for latent in (1, 3):
        theta, _ = ppca.maximum_likelihood(jnp.asarray(ys), latent)
        value = float(jnp.mean(elbo.evidence(ppca.model(latent))(elbo.Params.tied(theta), jnp.asarray(test))))
        assert autoencoder._latents_to_match(ys, test, value - 1e-9) <= latent
    assert autoencoder._latents_to_match(ys, test, 0.0) is None


@pytest.mark.slow
def test_mnist():
    rng = np.random.default_rng(0)
    train, test = (rng.uniform(size=(n, 784)).astype(np.float32) for n in (600, 40))
    size = mnist.Size(train=300, validate=44, test=40, epochs=2, **SMALL_VAE)
    told = []
    result = mnist.compute(told.append, datasets.Mnist(train, test, np.zeros(600, int), np.zeros(40, int)), size)
    assert result.scores.bound.shape == result.scores.tighter.shape == (40,)
    assert -2 * 784 < np.mean(result.scores.bound) < -0.9 * 784 * math.log(2)  # fair coins take ln 2 a pixel
    assert all(rows.shape == (12, 28, 28) for rows in result.pictures.values())
    assert len(told) == 1 + size.epochs


def climb(*values):
    """A made-up climb."""
    steps = np.arange(len(values))
    run = clock.Trace(steps, 0.1 * steps, np.array(values), 1.0, elbo.Params((), ()))
    return four_rules.Climb("exact", "exact", run)


def test_main_writes_tables_pictures_and_numbers(monkeypatch, tmp_path, capsys):
    climbs = dict.fromkeys(("em", "eg", "vem", "vae"), climb(-30.0, -20.0, -10.1, -10.001))
    method = (10, 0.0, 1.0)
    made_up = contest(em_or_gradient.problems()[0], EM=method, L_BFGS=method, Adam=method, SGD=method)
    score = autoencoder.Scores("shared", np.full(40, -90.0), np.full(40, -89.0), -88.0, 1.0, (3, 4))
    models = ("PPCA", "factor analysis", "VAE, noise shared", "VAE, noise per pixel")
    rows = ("held out", "VAE", "VAE samples", "PPCA", "PPCA samples")
    small, large = (dict.fromkeys(rows, np.zeros((12, n, n))) for n in (8, 28))
    results = {
        four_rules: four_rules.Result(-10.0, four_rules.FULL, climbs),
        em_or_gradient: [made_up],
        autoencoder: autoencoder.Result(dict.fromkeys(models, score), small, autoencoder.FULL, 64, 17, None),
        mnist: mnist.Result(score, large, mnist.FULL, 784),
    }
    for module, result in results.items():
        monkeypatch.setattr(module, "compute", lambda tell, *_, r=result: (tell("working"), r)[1])
    monkeypatch.setattr(datasets, "mnist", lambda path: "images")
    demo.main(tmp_path / "mnist.npz", tmp_path / "out", [])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"four_rules.png", "em_or_gradient.png", "mixture.png", "vae.png", "mnist.png", "overview.png"}
    assert names == pictures | {"demo.json"}
    numbers = json.loads((tmp_path / "out" / "demo.json").read_text(encoding="utf-8"))
    assert "4 of 4 rules end within 0.01 nats" in numbers["rules"]["conclusion"]
    assert "is about as good as PPCA's" in numbers["vae"]["conclusion"]
    assert numbers["mnist"]["bits_per_dimension"] == pytest.approx(90 / 784 / math.log(2))
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    for text in ("One model, four rules", "EM against gradient ascent", "A VAE and the linear model", "MNIST"):
        assert text in printed


def test_an_unknown_part_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no part is called digits; there are rules, mixture, vae"):
        demo.main(None, tmp_path, ["digits"])


def test_one_poisson_state_has_a_closed_form(x64):
    counts = datasets.earthquakes()[1]
    one = series.fit_quakes(counts, 1, starts=2, steps=3)
    exact = scipy.stats.poisson(counts.mean()).logpmf(counts).sum()
    assert one.log_likelihood == pytest.approx(exact, rel=1e-12) and one.parameters == 1 and one.starts == 2
    np.testing.assert_allclose(one.expected, counts.mean())


def test_score_of_states():
    labels = np.array([0, 1])
    assert units.score(np.array([[0, 0, -1], [1, 1, 1]]), labels) == (1.0, pytest.approx(0.970951, rel=1e-5))  # H(2/5)
    assert units.score(np.array([[0, 1], [0, 1]]), labels) == (0.5, 0.0)
