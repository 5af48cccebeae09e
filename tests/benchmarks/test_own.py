"""`run --model`: a rule of the user's own is timed, and what is none is told."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from benchmarks import measure, own
from benchmarks.__main__ import main
from elbo import optim
from elbo.models import mixture

YS = jnp.array([[0.0], [0.1], [0.3], [5.0], [5.1], [5.4]])
MODEL = mixture.model(2)
GIVEN = (optim.em_step(MODEL), mixture.init(jax.random.key(0), YS, 2), YS)
MODULE = """
import jax, jax.numpy as jnp
from elbo import optim
from elbo.models import mixture

def fit():
    ys = jnp.array([[0.0], [0.1], [0.3], [5.0], [5.1], [5.4]])
    return optim.em_step(mixture.model(2)), mixture.init(jax.random.key(0), ys, 2), ys

number = 3
"""


class Named(NamedTuple):
    """A return value with names."""

    ys: jax.Array
    params: elbo.Params
    rule: optim.Rule
    weights: np.ndarray


def timed(value):
    return own.time_of(own.subject(value), rounds=2, gemm=64, burst=0.001)


def test_a_step_is_measured_and_goes_on_from_step_to_step():
    report = timed(GIVEN)
    rule, params, ys = GIVEN
    info = rule.update(None, params, (), ys)[2]
    assert report.before == pytest.approx(float(info.objective), rel=1e-5)
    ended = optim.run(rule, params, ys, steps=report.steps)
    assert report.after == pytest.approx(float(ended.final.objective), rel=1e-5) and report.after > report.before
    assert report.steps >= 3 and report.flops > 0 and report.bytes > ys.nbytes and report.dropped == 0
    assert report.gemm > 0 and report.memory > 0 and report.compile_s > 0 and 0 < report.minimum_s <= report.median_s
    assert "6 data" not in own.text("mine", report) and "nats a datum" in own.text("mine", report)


def test_weights_and_names_are_taken():
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    report = timed(Named(YS, GIVEN[1], GIVEN[0], weights))
    info = GIVEN[0].update(None, GIVEN[1], (), YS, weights=jnp.asarray(weights))[2]
    assert report.before == pytest.approx(float(info.objective), rel=1e-5)


def test_a_rule_that_samples_needs_a_key():
    given = dict(rule=optim.minibatches(optim.eg_step(MODEL, optax.sgd(0.01)), 3), params=GIVEN[1], ys=YS)
    with pytest.raises(ValueError, match="key"):
        timed(given)
    assert np.isfinite(timed({**given, "key": jax.random.key(0)}).after)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (3, "returned a int, expected .rule, params, ys."),
        (GIVEN[:2], "returned a tuple of 2"),
        ({"rule": GIVEN[0], "params": GIVEN[1]}, "without ys"),
        (dict(zip(own.FIELDS, (*GIVEN, None, None), strict=True), wieghts=1), "with wieghts"),
        ((MODEL, *GIVEN[1:]), "rule is a Model, expected elbo.optim.em_step"),
        ((GIVEN[0], GIVEN[1].theta, YS), "params is a Theta, expected elbo.Params.tied"),
        ((*GIVEN[:2], jnp.zeros(())), "ys"),
        (
            {**dict(zip(own.FIELDS, GIVEN, strict=False)), "weights": jnp.ones(5)},
            r"weights have the shape \[5\], .* \[6\]",
        ),
    ],
)
def test_what_is_no_subject_is_told(value, told):
    with pytest.raises(ValueError, match=told):
        own.subject(value, "mine:fit")


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    small = measure.gemm(64), measure.stream(64)
    monkeypatch.setattr(measure, "gemm", lambda size: small[0])
    monkeypatch.setattr(measure, "stream", lambda size: small[1])
    assert main(["run", "--model", "of_a_user:fit", "--rounds", "1"]) == 0
    assert "of GEMM" in capsys.readouterr().out
    for name, told in (
        ("of_a_user", "expected package.module:function"),
        ("of_a_user:number", "'number', which is no function in of_a_user; expected one of fit"),
        ("no_such.module:fit", "no module 'no_such'"),
    ):
        with pytest.raises(SystemExit):
            main(["run", "--model", name])
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--model", "of_a_user:fit", "--tiny"])
