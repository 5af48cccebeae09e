"""Data in batches: every rule gives what it gives in memory, and a stream that fails says where and loses nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, mixture
from elbo.models.families import Categorical, PseudoData

pytestmark = pytest.mark.usefixtures("x64")
KEY, COUNT = jax.random.key(0), 23
ADAM = optax.adam(0.1)


def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(COUNT, 2)) + 4 * (np.arange(COUNT) % 2)[:, None]


def start(ys):
    return mixture.init(KEY, jnp.asarray(ys), 2)


MODEL = mixture.model(2)
AMORTISED = elbo.Model(MODEL.log_joint, lambda psi, y: MODEL.encoder(psi, y))
EM, EG = optim.em_step(MODEL), optim.eg_step(MODEL, ADAM)
RULES = {
    "em": EM,
    "eg": EG,
    "vae": optim.vae_step(AMORTISED, ADAM),
    "vem": optim.vem_step(AMORTISED, ADAM),
    "chain": optim.chain(EM, optim.restrict(EG, "theta.components")),
    "repeat": optim.repeat(EM, 2),
    "prior": optim.em_step(MODEL, prior=mixture.Theta(PseudoData(Categorical.create(jnp.full(2, 0.5)), 3.0), None)),
    "damp": optim.damp(MODEL, EM, 0.5),
    "minibatches": optim.minibatches(optim.damp(MODEL, EM, 0.5), 5),
    "minibatches, gradient": optim.minibatches(EG, 5),
}


def fit(rule, params, ys, **options):
    return optim.fit(rule, params, ys, key=KEY, steps=3, progress=False, **options)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_stream_gives_what_memory_gives(rule):
    ys = points()
    weights = np.random.default_rng(1).uniform(0.5, 2, size=COUNT)
    memory = fit(rule, start(ys), jnp.asarray(ys), weights=jnp.asarray(weights))
    stream = fit(rule, start(ys), optim.Batches(ys, 5, weights))
    for a, b in zip(*(jax.tree.leaves((r.params, r.state, r.history)) for r in (stream, memory)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert stream.steps == memory.steps and stream.reason == memory.reason


def test_any_iterable_that_can_be_read_again():
    ys = points()
    expected = fit(EM, start(ys), jnp.asarray(ys)).params

    class Loader:
        def __iter__(self):
            return iter([ys[:10], ys[10:20], optim.Batch(ys[20:], np.ones(3))])

    for stream in (Loader(), lambda: (ys[i : i + 7] for i in range(0, COUNT, 7)), lambda: [ys[:12], ys[12:]]):
        seen = fit(EM, start(ys), stream).params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), seen, expected)


def test_a_short_last_batch_compiles_nothing():
    ys, traces = points(), []

    def log_joint(theta, z, y):
        traces.append(1)
        return MODEL.log_joint(theta, z, y)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    rule = optim.em_step(model)
    fit(rule, start(ys), optim.Batches(ys, 5))
    before = len(traces)
    fit(rule, start(ys), optim.Batches(ys[:18], 5))
    assert len(traces) == before


def test_sequences():
    ys = np.random.default_rng(2).normal(size=(6, 4, 1))
    sequences = elbo.Padded(jnp.asarray(ys), jnp.array([4, 3, 2, 4, 1, 4]))
    model, params = hmm.model(2), hmm.init(KEY, sequences, 2)
    rule = optim.em_step(model)
    memory, stream = fit(rule, params, sequences), fit(rule, params, optim.Batches(jax.device_get(sequences), 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), stream.params, memory.params)


def poisoned(kind):
    """A function that gives batches, the third of which is bad."""
    passes = []

    def batches():
        passes.append(kind)
        for i in range(5):
            ys = points()[4 * i : 4 * i + 4]
            if i == 2 and kind == "ends early" and len(passes) == 2:
                return
            if i == 2:
                change = {
                    "another shape": lambda ys: ys[:, :1],
                    "empty": lambda ys: ys[:0],
                    "larger": lambda ys: points(),
                }
                if kind == "fails":
                    raise OSError("the disk is gone")
                ys = change.get(kind, lambda ys: ys)(ys)
            yield ys

    return batches


BAD = {
    "another shape": (r"batch 2 of pass 1: got data .* float64\[1\], expected float64\[2\]", 0),
    "empty": (r"batch 2 of pass 1", 0),
    "larger": (r"batch 2 of pass 1: got 23 data, expected at most 4", 0),
    "fails": (r"batch 2 of pass 1 failed: OSError: the disk is gone", 0),
    "ends early": (r"pass 2 gave 8 data in 2 batches, expected 20 in 5", 1),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_stream_that_fails_says_where_and_loses_nothing(kind):
    message, steps = BAD[kind]
    with pytest.raises(optim.StreamError, match=message) as caught:
        fit(EM, start(points()), poisoned(kind))
    result = caught.value.result
    assert result.steps == steps
    expected = optim.fit(EM, start(points()), jnp.asarray(points()[:20]), steps=steps, progress=False).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), result.params, expected)


def test_bad_data_are_dropped_and_counted():
    ys = points()
    ys[[3, 7]] = np.nan
    ys[15:20] = np.nan  # a whole batch
    for rule in (EM, EG):
        history = fit(rule, start(points()), optim.Batches(ys, 5)).history
        assert history.dropped.tolist() == [7, 7, 7] and history.finite.all()


def test_errors():
    ys = points()
    for stream in (iter([ys]), (y for y in [ys])):
        with pytest.raises(TypeError, match=r"ys: got a \w+, which can be read once"):
            fit(EM, start(ys), stream)
    with pytest.raises(TypeError, match="ys: got a list"):
        fit(EM, start(ys), [ys])
    with pytest.raises(ValueError, match="optimizer: asks for the objective at other parameters"):
        fit(optim.eg_step(MODEL, optax.lbfgs()), start(ys), optim.Batches(ys, 5))
    with pytest.raises(TypeError, match="takes no stream"):
        fit(optim.Rule(lambda params: (), lambda *a, weights=None: None), start(ys), optim.Batches(ys, 5))
    with pytest.raises(ValueError, match="size: got minibatches of 4, but the stream gives batches of 5"):
        fit(optim.minibatches(EM, 4), start(ys), lambda: iter(optim.Batches(ys, 5)))
    with pytest.raises(ValueError, match="weights: got some beside a stream"):
        fit(EM, start(ys), optim.Batches(ys, 5), weights=jnp.ones(COUNT))


def test_ctrl_c_keeps_the_steps_done():
    def callback(step, params, info):
        if step == 2:
            raise KeyboardInterrupt

    ys = points()
    result = fit(EM, start(ys), optim.Batches(ys, 5), callback=callback)
    assert result.steps == 2 and result.reason == optim.Reason.STOPPED


def test_sample_is_fair():
    """How often each of 12 data is among 5 of them, over 4,000 draws; 4 standard deviations."""
    drawn = [optim.sample(optim.Batches(np.arange(12.0), 3), 5, seed) for seed in range(4000)]
    counts = np.bincount(np.concatenate(drawn).astype(int), minlength=12)
    assert all(len(set(np.asarray(d).tolist())) == 5 for d in drawn)
    share = 5 / 12
    np.testing.assert_allclose(counts, 4000 * share, atol=4 * np.sqrt(4000 * share * (1 - share)))
