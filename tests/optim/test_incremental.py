"""Incremental EM: L never falls, the end is EM's, in fewer passes; weights, priors, bad data, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import mixture

from ..problems import PROBLEMS, SMALL, arrays, stack
from .test_monotone import draw

pytestmark = pytest.mark.usefixtures("x64")


def two(size=90, apart=3.0):
    a, b = jax.random.split(jax.random.key(0))
    ys = jnp.concatenate([jax.random.normal(a, (size // 2, 2)), apart + jax.random.normal(b, (size // 2, 2))])
    ys = jax.random.permutation(jax.random.key(1), ys)
    return mixture.model(2), mixture.init(jax.random.key(1), ys, 2), ys


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_step_down(name):
    rng = np.random.default_rng(3)
    model = PROBLEMS[name].model(SMALL)
    *problems, bounded = stack([draw(name, SMALL, "data", rng) for _ in range(25)])

    def run(params, ys, weights, prior):
        rule = optim.incremental_em_step(model, 5, prior=prior, chunk_size=None)  # 16 data: the last block is padded
        return optim.run(rule, params, ys, steps=15, weights=weights)

    result = jax.jit(jax.vmap(run))(*arrays(tuple(problems), float))
    info = result.history
    assert info.finite.all()
    before, after = info.objective[:, :-1], info.objective[:, 1:]
    fall = np.max((before - after) / np.maximum(1, np.abs(before)), 1)
    assert np.all(fall <= np.where(bounded, 1e-12, 1e-5)), np.max(fall)
    evidence = jax.vmap(lambda params, ys: elbo.evidence(model)(params, ys))(result.params, problems[1])
    weights = problems[2]
    mean = np.sum(np.where(weights > 0, weights * evidence, 0), 1) / np.sum(weights, 1)
    # a lower bound on what EM would report
    assert np.all(result.final.elbo <= mean + 1e-9 * np.maximum(1, np.abs(mean)))


def test_one_block_is_em_and_more_end_there_sooner():
    model, start, ys = two(apart=2.0)
    em, one, many = optim.em_step(model), *(optim.incremental_em_step(model, b) for b in (1, 9))
    ends = [optim.run(rule, start, ys, steps=300) for rule in (em, one, many)]
    np.testing.assert_allclose(ends[1].params.theta.components.mean, ends[0].params.theta.components.mean, atol=1e-12)
    for end in ends[2:]:
        np.testing.assert_allclose(end.final.elbo, ends[0].final.elbo, rtol=1e-10)
        np.testing.assert_allclose(end.params.theta.components.mean, ends[0].params.theta.components.mean, atol=1e-8)
    passes = [int(jnp.argmax(end.history.elbo > ends[0].final.elbo - 1e-9)) for end in ends]
    assert passes[2] < 0.8 * passes[0], passes


def test_bad_data_and_weights():
    model, start, ys = two()
    weights = jnp.ones(90).at[:10].set(2.0).at[80:].set(0.0)
    rule = optim.incremental_em_step(model, 7)
    bad = optim.run(rule, start, ys.at[85].set(jnp.nan).at[40].set(jnp.nan), steps=200, weights=weights)
    assert bad.final.dropped == 1 and bad.final.weight == 89
    good = jnp.concatenate([ys[:10], ys[:40], ys[41:80]])
    expected = optim.run(optim.em_step(model), start, good, steps=300)
    np.testing.assert_allclose(bad.final.elbo, expected.final.elbo, rtol=1e-9)


def test_restricted_streams_and_mistakes():
    model, start, ys = two()
    rule = optim.incremental_em_step(model, 9)
    part = optim.run(optim.restrict(rule, "theta.components"), start, ys, steps=5).params.theta
    np.testing.assert_array_equal(part.weights.logits, start.theta.weights.logits)
    assert not np.array_equal(part.components.mean, start.theta.components.mean)
    with pytest.raises(ValueError, match="blocks: got 9 for 4 data"):
        rule.update(None, start, rule.init(start), ys[:4])
    with pytest.raises(TypeError, match="takes no stream"):
        optim.fit(rule, start, optim.Batches(np.asarray(ys), 30), steps=2, progress=False)
    with pytest.raises(TypeError, match="has a state"):
        optim.accelerate(rule).init(start)
