"""Incremental EM: by hand, its objective never falls, it ends where EM ends, in memory, on streams and under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import optim
from elbo.models import hmm, mixture
from elbo.models.families import Bernoulli, Categorical, Normal, PseudoData

pytestmark = pytest.mark.usefixtures("x64")
MODEL = mixture.model(2)
EM = optim.em_step(MODEL)


def coins(seed=0, count=60):
    rng = np.random.default_rng(seed)
    chances = np.where(rng.random((count, 1)) < 0.5, 0.25, 0.7)
    theta = mixture.Theta(
        Categorical.create(jnp.array([0.5, 0.5])), Bernoulli.create(jnp.array([[0.4] * 5, [0.55] * 5]))
    )
    return elbo.Params.tied(theta), jnp.asarray((rng.random((count, 5)) < chances).astype(float))


def points(count=60, apart=4.0):
    which = np.arange(count) % 3 == 0
    ys = np.random.default_rng(0).normal(size=(count, 2)) + apart * which[:, None]
    mean = jnp.array([[1.0, 0.5], [2.0, 3.0]])
    theta = mixture.Theta(Categorical.create(jnp.array([0.5, 0.5])), Normal.create(mean, jnp.full((2, 2), 2.0)))
    return elbo.Params.tied(theta), jnp.asarray(ys)


def by_hand(params, ys, blocks, passes):
    """Of a mixture of coins in NumPy, by enumeration of z: the parameters, and the objective after every half step."""
    ys, size = np.asarray(ys), -(-len(ys) // blocks)
    pi, heads = np.array(params.theta.weights.probabilities()), np.array(params.theta.components.probabilities())

    def joint():
        return np.log(pi) + ys @ np.log(heads).T + (1 - ys) @ np.log(1 - heads).T

    def energy():
        return np.sum(q * (joint() - np.log(q))) / len(ys)

    def posterior():
        p = np.exp(joint())
        return p / p.sum(1, keepdims=True)

    q, energies, firsts = posterior(), [], []
    for turn in range(passes):
        for b in range(blocks):
            rows = slice(b * size, (b + 1) * size)
            q[rows] = posterior()[rows]
            energies.append(energy())
            if b == 0:
                firsts.append(energies[-1])
            if turn or b == blocks - 1:
                pi, heads = q.mean(0), (q.T @ ys) / q.sum(0)[:, None]
                energies.append(energy())
    return pi, heads, np.array(energies), np.array(firsts)


@pytest.mark.parametrize("blocks", [1, 4, 7])
def test_by_hand(blocks):
    params, ys = coins()
    result = optim.run(optim.incremental_em_step(MODEL, blocks), params, ys, steps=6)
    pi, heads, energies, firsts = by_hand(params, ys, blocks, 6)
    assert (np.diff(energies) > -1e-13).all()
    np.testing.assert_allclose(result.params.theta.weights.probabilities(), pi, rtol=1e-9)
    np.testing.assert_allclose(result.params.theta.components.probabilities(), heads, rtol=1e-9)
    np.testing.assert_allclose(result.history.objective, firsts, rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, result.params.theta, result.params.psi)
    assert result.history.finite.all() and (result.history.weight == len(ys)).all()


def test_one_block_is_em():
    params, ys = points()
    one, em = (optim.run(rule, params, ys, steps=4) for rule in (optim.incremental_em_step(MODEL, 1), EM))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), one.params, em.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), one.history, em.history)


PRIOR = mixture.Theta(
    PseudoData(Categorical.create(jnp.array([0.5, 0.5])), 2.0),
    PseudoData(Normal.create(jnp.zeros((2, 2)), jnp.ones((2, 2))), 3.0),
)


@pytest.mark.parametrize("prior", [None, PRIOR], ids=["", "prior"])
def test_it_ends_where_em_ends_in_fewer_passes_and_never_falls(prior):
    """With weights, data of weight 0, rows of NaN, and a last block that is short."""
    params, ys = points(200)
    ys = ys.at[jnp.array([5, 77])].set(jnp.nan)
    weights = jnp.asarray(np.random.default_rng(1).integers(0, 3, 200).astype(float)).at[5].set(1.0)
    incremental = optim.incremental_em_step(MODEL, 11, prior=prior)
    rules = incremental, optim.em_step(MODEL, prior=prior)
    new, em = (optim.run(rule, params, ys, weights=weights, steps=120) for rule in rules)
    assert (np.diff(new.history.objective) > -1e-13).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), new.params, em.params)
    np.testing.assert_allclose(new.final.objective, em.final.objective, rtol=1e-12)
    assert (new.history.dropped == em.history.dropped).all() and int(new.final.dropped) == int(em.final.dropped) > 0
    np.testing.assert_allclose(new.final.weight, em.final.weight)
    passes = [int(np.argmax(r.history.objective > em.final.objective - 1e-11)) for r in (new, em)]
    assert 0 < passes[0] < passes[1], passes


def test_a_chain():
    ys = np.random.default_rng(2).normal(size=(12, 6, 1)) + 3 * (np.arange(6) % 3 == 0)[:, None]
    model, params = hmm.model(2), hmm.init(jax.random.key(0), jnp.asarray(ys), 2)
    rules = optim.incremental_em_step(model, 4), optim.em_step(model)
    new, em = (optim.run(rule, params, jnp.asarray(ys), steps=300) for rule in rules)
    assert (np.diff(new.history.objective) > -1e-12).all()
    np.testing.assert_allclose(new.final.objective, em.final.objective, rtol=1e-9)


def test_an_empty_component_stays_where_it_is():
    params, ys = points(30, apart=0.0)
    far = params.theta.components
    far = Normal.create(far.mean.at[1].set(1e4), jnp.ones((2, 2)))
    start = elbo.Params.tied(params.theta._replace(components=far))
    result = optim.run(optim.incremental_em_step(MODEL, 5), start, ys, steps=4)
    np.testing.assert_array_equal(result.params.theta.components.mean[1], far.mean[1])
    assert result.final.empty == 1 and result.history.finite.all() and np.isfinite(result.history.objective).all()


def test_single_precision_does_not_drift():
    params, ys = points(300)
    rule = optim.incremental_em_step(MODEL, 10)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    ends = [optim.run(rule, p, ys, steps=400) for p in (single, params)]
    assert ends[0].params.theta.components.mean.dtype == ends[0].state.held.rest.dtype == jnp.float32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *(e.params for e in ends))


def test_vmap_over_starts():
    params, ys = points()
    rule = optim.incremental_em_step(MODEL, 4)
    starts = jax.tree.map(lambda a: jnp.stack([a, a + 0.1]), params)
    both = jax.vmap(lambda p: optim.run(rule, p, ys, steps=3, tolerance=1e-9))(starts)
    for i in range(2):
        alone = optim.run(rule, jax.tree.map(lambda a, i=i: a[i], starts), ys, steps=3)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-9), both.params, alone.params)


def test_a_stream_and_a_checkpoint_give_what_memory_gives(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    params, ys = points(58)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=58)
    rule = optim.incremental_em_step(MODEL, 6)
    stream = optim.Batches(np.asarray(ys), 10, weights)
    checkpoints = optim.Checkpoints(tmp_path, every=1)
    whole = optim.fit(rule, params, ys, weights=jnp.asarray(weights), steps=4, progress=False)
    part = optim.fit(rule, params, stream, steps=2, progress=False, checkpoints=checkpoints)
    rest = optim.fit(rule, params, stream, steps=4, progress=False, checkpoints=checkpoints, resume=True)
    assert part.steps == 2 and rest.steps == 4
    for name in ("params", "state", "history"):
        a, b = (jax.tree.map(np.asarray, getattr(r, name)) for r in (rest, whole))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), a, b)


def test_with_other_rules():
    params, ys = points()
    rule = optim.restrict(optim.incremental_em_step(MODEL, 4), "theta.components", "psi")
    state = rule.init(params)
    assert state.measured.weights is None and state.held.families.weights is None
    result = optim.run(optim.chain(optim.repeat(rule, 2), EM), params, ys, steps=30)
    end = optim.run(EM, params, ys, steps=100)
    np.testing.assert_allclose(result.final.objective, end.final.objective, rtol=1e-9)
    moved = optim.run(rule, params, ys, steps=30)
    np.testing.assert_array_equal(moved.params.theta.weights.logits, params.theta.weights.logits)
    assert (np.diff(moved.history.objective) > -1e-13).all()


def test_what_is_not_finite_moves_nothing():
    params, ys = points()
    rule = optim.incremental_em_step(MODEL, 4)
    params, state, _ = rule.update(None, params, rule.init(params), ys)
    huge = jnp.full(60, 1e308)
    new, kept, info = rule.update(None, params, state, ys, weights=huge)
    assert not info.finite
    jax.tree.map(np.testing.assert_array_equal, (new, kept), (params, state))


def test_errors():
    params, ys = points()
    rule = optim.incremental_em_step(MODEL, 4)
    with pytest.raises(ValueError, match="blocks: got 0"):
        optim.incremental_em_step(MODEL, 0)
    with pytest.raises(ValueError, match="blocks: got 4 for 3 data, expected at most 3"):
        rule.update(None, params, rule.init(params), ys[:3])
    with pytest.raises(ValueError, match="state: got 4 blocks for a rule of 5 blocks"):
        optim.incremental_em_step(MODEL, 5).update(None, params, rule.init(params), ys)
    with pytest.raises(ValueError, match="blocks: got 4, but the stream gives 6 batches"):
        optim.fit(rule, params, optim.Batches(np.asarray(ys), 10), steps=1, progress=False)
    with pytest.raises(TypeError, match="cannot be run on minibatches"):
        optim.run(optim.minibatches(rule, 10), params, ys, key=jax.random.key(0), steps=1)
    with pytest.raises(TypeError, match="no closed-form M step to be damped"):
        optim.damp(MODEL, rule, 0.5)
    with pytest.raises(TypeError, match="no exact E step"):
        optim.incremental_em_step(elbo.Model(MODEL.log_joint, lambda psi, y: MODEL.encoder(psi, y)), 2).init(params)
    assert optim.restrict(optim.chain(rule, optim.eg_step(MODEL, optax.sgd(0.1))), "theta") is not None
