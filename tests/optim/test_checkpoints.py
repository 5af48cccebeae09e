"""Checkpoints: a run that goes on is one that never stopped; what fails is told, and costs nothing."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from benchmarks import kills
from elbo import optim
from elbo.models import mixture

KEY = jax.random.key(0)
YS = jax.random.normal(KEY, (24, 2)) + 3 * (jnp.arange(24) % 2)[:, None]
MODEL, START = mixture.model(2), mixture.init(KEY, YS, 2)
AMORTISED = elbo.Model(MODEL.log_joint, lambda psi, y: MODEL.encoder(psi, y))
RULES = {
    "em": optim.em_step(MODEL),
    "vae": optim.minibatches(optim.vae_step(AMORTISED, optax.adam(0.01)), 8),
    "damp": optim.minibatches(optim.damp(MODEL, optim.em_step(MODEL), 0.5), 8),
}
MEMORY, STREAM = YS, optim.Batches(np.asarray(YS), 8)


def fit(rule, ys, folder=None, *, steps=7, key=KEY, **options):
    options = {"every": 2, "progress": False, **options}
    if folder is not None:
        options["checkpoints"] = optim.Checkpoints(folder, every=2)
    return optim.fit(rule, START, ys, key=key, steps=steps, **options)


def same(a, b):
    for x, y in zip(*(jax.tree.leaves((r.params, r.state, r.history)) for r in (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a.steps, a.reason) == (b.steps, b.reason)


@pytest.mark.parametrize("ys", [MEMORY, STREAM], ids=["memory", "stream"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_run_that_goes_on_is_one_that_never_stopped(rule, ys, tmp_path):
    fit(rule, ys, tmp_path / "a", steps=3)
    same(fit(rule, ys, tmp_path / "a", resume=True), fit(rule, ys))
    same(fit(rule, ys, tmp_path / "a", resume=True), fit(rule, ys))  # nothing is left to do


def test_a_run_that_has_ended_does_not_begin_again(tmp_path):
    whole = fit(RULES["em"], MEMORY, tmp_path / "a", steps=200, tolerance=1e-4)
    assert whole.reason is optim.Reason.CONVERGED and str(whole.reason) == "CONVERGED"
    same(fit(RULES["em"], MEMORY, tmp_path / "a", steps=200, tolerance=1e-4, resume=True), whole)


@pytest.mark.slow
def test_kill():
    kills.survive(2)


def test_the_latest_few_are_kept_and_an_older_run_is_not_written_over(tmp_path):
    fit(RULES["em"], MEMORY, tmp_path, steps=13)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "12", "13", "history.rows"]
    with pytest.raises(ValueError, match="holds some up to step 13; pass resume=True"):
        fit(RULES["em"], MEMORY, tmp_path)


def test_one_that_cannot_be_read_is_told_and_the_one_before_it_is_taken(tmp_path):
    fit(RULES["vae"], MEMORY, tmp_path, steps=5)
    for file in (tmp_path / "5" / "arrays").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    shutil.rmtree(tmp_path / "4" / "about")
    with pytest.warns(RuntimeWarning, match=r"checkpoint of step [45] .* cannot be read"):
        seen = fit(RULES["vae"], MEMORY, tmp_path, resume=True)
    same(seen, fit(RULES["vae"], MEMORY))


def test_a_history_that_is_cut_short_counts_as_far_as_it_goes(tmp_path):
    fit(RULES["em"], MEMORY, tmp_path, steps=6)
    rows = tmp_path / "history.rows"
    rows.write_bytes(rows.read_bytes()[: rows.stat().st_size * 5 // 6])
    with pytest.warns(RuntimeWarning, match=r"checkpoint of step 6 .* cannot be read"):
        seen = fit(RULES["em"], MEMORY, tmp_path, resume=True)
    same(seen, fit(RULES["em"], MEMORY))


def test_one_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    fit(RULES["em"], MEMORY, tmp_path, steps=2)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.warns(RuntimeWarning, match="no checkpoint could be written after step 4 .*No space left"):
        seen = fit(RULES["em"], MEMORY, tmp_path, resume=True)
    same(seen, fit(RULES["em"], MEMORY))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "history.rows"]


def test_another_run_is_refused_and_the_difference_named(tmp_path):
    fit(RULES["vae"], MEMORY, tmp_path, steps=2)
    other = mixture.init(KEY, YS, 3)
    with pytest.raises(
        ValueError, match=r"\.params\.theta\.weights\.logits is stored as \(\(2,\), 'float32'\), expected \(\(3,\)"
    ):
        optim.fit(
            RULES["vae"], other, YS, key=KEY, checkpoints=optim.Checkpoints(tmp_path), resume=True, progress=False
        )
    with pytest.raises(ValueError, match=r"\.state.* is stored, and not expected"):
        fit(RULES["em"], MEMORY, tmp_path, resume=True)
    with pytest.raises(ValueError, match="key: got another one"):
        fit(RULES["vae"], MEMORY, tmp_path, resume=True, key=jax.random.key(1))
    with pytest.raises(ValueError, match="checkpoints: got None with resume=True"):
        fit(RULES["vae"], MEMORY, resume=True)
