"""The demo of connected digits and its front end, at sizes that say nothing about learning."""

import json

import numpy as np
import pytest

from benchmarks import datasets, speech
from benchmarks.demo import pictures_spoken, spoken
from elbo import optim


def test_log_mel():
    rng = np.random.default_rng(0)
    for samples in (1, 199, 200, 201, 300, 301, 2000):
        frames = speech.log_mel(rng.standard_normal(samples))
        assert frames.shape == (speech.frames(samples), speech.BANDS) and frames.dtype == np.float32
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)
    # a tone is loudest in the band around it, whatever its amplitude; silence is finite
    tone = np.sin(2 * np.pi * 2000 * np.arange(4000) / 8000)
    loud, soft = (speech.log_mel(scale * tone, normalize=False) for scale in (1.0, 1e-3))
    assert (loud.argmax(1) == soft.argmax(1)).all() and 12 < loud[5].argmax() < 20
    assert not speech.log_mel(np.zeros(1000)).any()
    with pytest.raises(ValueError, match=r"wave: got an array of shape \[2, 5\]"):
        speech.log_mel(np.zeros((2, 5)))


def test_utterances_never_mix_training_and_test():
    data = datasets.spoken_digits()
    # takes that say what they are: each a constant, no two the same
    marked = data._replace(waves=[np.full(800, 1 + i, np.float32) for i in range(len(data.waves))])
    size, seen = spoken.Size(gap=0.0), {}
    log_mel = speech.log_mel
    try:
        for name, part in (("train", ~data.is_test), ("test", data.is_test)):
            waves: list = []
            speech.log_mel = lambda wave, rate, waves=waves: (waves.append(wave), np.zeros((4, 2)))[1]
            ys = spoken.utterances(marked, part, 20, size, 0)
            seen[name] = {int(v) - 1 for wave in waves for v in np.unique(wave)}
            assert 3 <= ys.labels.length.min() and ys.labels.length.max() <= 7
    finally:
        speech.log_mel = log_mel
    assert not data.is_test[list(seen["train"])].any() and data.is_test[list(seen["test"])].all()


@pytest.mark.slow
def test_three_methods(tmp_path, monkeypatch):
    # a rule that rests in place of the one that samples, which alone would take ten seconds to compile
    resting = optim.Rule(lambda params: (), lambda key, params, state, ys: (params, state, None))
    monkeypatch.setattr(optim, "vae_step", lambda *_, **__: resting)
    size = spoken.Size(train=8, test=3, digits=(2, 2), width=4, steps=4, batch=2, every=2, samples=2)
    told = []
    result = spoken.compute(told.append, size)
    assert len(told) == spoken.PIECES and set(result.curves) == {spoken.EXACT, spoken.SAMPLED, spoken.PLAIN}
    exact, plain = (result.curves[name] for name in (spoken.EXACT, spoken.PLAIN))
    assert exact.steps.tolist() == [0, 2, 4] and (np.diff(exact.seconds) > 0).all()
    # one start and one gradient
    assert len({curve.loss[0] for curve in result.curves.values()}) == 1
    np.testing.assert_allclose(exact.loss, plain.loss, rtol=1e-4)
    np.testing.assert_allclose(result.marginals.sum(1), 1, atol=1e-4)
    figures = spoken.figures(result)
    json.dumps(figures, allow_nan=False)
    assert "optax.ctc_loss" in figures["conclusion"] and spoken.table(result).row_count == 3
    pictures_spoken.picture(result, tmp_path / "spoken.png")
    assert (tmp_path / "spoken.png").stat().st_size > 10_000
