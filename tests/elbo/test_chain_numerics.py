"""Chains on which rescaling usually fails: what falls far behind and later wins, or is the only way to the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elbo import LOG_ZERO
from elbo.posteriors import ChainPosterior
from elbo.posteriors.chain import homogeneous as chain_scaled
from elbo.posteriors.chain import log_space as chain_log
from elbo.posteriors.chain import passes as chain_passes

from .chains import forbidden, random_chain, smoothed
from .enumeration import stack

FRAMES, STATES = 7, 4


def left_to_right(rng, gap):
    """The last state fits best from the first frame on, but can be reached only at the end, or never."""
    transition = np.where(np.triu(np.ones((STATES, STATES))) - np.triu(np.ones((STATES, STATES)), 2) > 0, 0.0, LOG_ZERO)
    emission = rng.normal(size=(FRAMES, STATES))
    emission[:, -1] += gap
    initial = np.array([0.0] + [LOG_ZERO] * (STATES - 1))
    if rng.random() < 0.5:
        transition[STATES - 2, STATES - 1] = LOG_ZERO
    return initial, transition, emission


def reversing(rng, gap):
    """Blocks that do not communicate; now one is ahead by the gap, now the other."""
    block = np.arange(STATES) % 2
    transition = np.where(block[:, None] == block, rng.normal(size=(STATES, STATES)), LOG_ZERO)
    lead = gap * rng.choice([-1, 1, 2.5, -2.5], size=FRAMES)
    return rng.normal(size=STATES), transition, rng.normal(size=(FRAMES, STATES)) + np.outer(lead, block)


def hard_zeros(rng, gap):
    """Zeros in every place; often no path is left."""
    draw = lambda *shape: np.where(rng.random(shape) < 0.35, LOG_ZERO, gap / 10 * rng.normal(size=shape))
    return draw(STATES), draw(STATES, STATES), draw(FRAMES, STATES)


def rough(rng, gap):
    """Everything is possible, hardly anything is probable."""
    draw = lambda *shape: -gap * rng.random(shape) ** 3
    return draw(STATES), draw(STATES, STATES), draw(FRAMES, STATES)


KINDS = [left_to_right, reversing, hard_zeros, rough]


def rescaled(q):
    p, n = q._raw()
    return {
        "smooth": chain_passes.in_probabilities(p).smooth(p, n),
        "value": chain_passes.in_probabilities(p).log_partition(p, n),
    }


@jax.vmap
def unconditional(q):
    p, n = q._clean()
    return {
        "value": chain_passes.log_partition(p, n),
        "smooth": chain_passes.smooth(p, n),
        "log": chain_log.smooth(p, n),
        "parallel": chain_log.parallel(p, n),
    }


@jax.jit
def passes(q):
    # one after the other, they take another loop than together
    return unconditional(q) | {"together": jax.vmap(rescaled)(q), "alone": jax.lax.map(rescaled, q)}


def check(q, seen):
    """All passes agree with float64 in log space; the scaled ones at least where they say so."""
    (log_z, marginals), nowhere = smoothed(q), forbidden(q)
    parts = [np.abs(a[a > 1e-6 * LOG_ZERO]).max(initial=0) for a in (np.asarray(q.initial), q.transition, q.states)]
    # each frame rounds numbers as large as the potentials a few times
    error = 8 * q.states.shape[0] * float(jnp.finfo(q.states.dtype).eps) * (1 + max(parts))

    def same(value, log_z=log_z):
        if log_z == -np.inf:
            assert value == q.states.dtype.type(LOG_ZERO)
        else:
            np.testing.assert_allclose(value, log_z, atol=error * (1 + q.states.shape[0]))

    def same_marginals(path):
        for a, b, never in zip(path, marginals, nowhere, strict=True):
            np.testing.assert_allclose(a, b, atol=min(error, 0.01))
            # what no path reaches has no share, not even a small one, and rounding makes none larger than 1
            assert not a[never].any() and (a >= 0).all()
        per_step = path.transitions if path.transitions.ndim == 3 else path.initial
        assert max(path.initial.max(), path.states.max(), per_step.max()) <= 1

    same(seen["value"])
    for name in ("smooth", "log", "parallel"):
        value, path = seen[name]
        same(value)
        same_marginals(path)
    for name in ("together", "alone"):
        (value, path), right = seen[name]["smooth"]
        if right:
            same(value)
            same_marginals(path)
        value, right = seen[name]["value"]
        if right:
            same(value)


def batch(kind, seed, gap, dtype, count=8):
    rng = np.random.default_rng(seed)
    chains = [kind(rng, gap) for _ in range(count)]
    arrays = (jnp.asarray(np.stack(a), dtype) for a in zip(*chains, strict=True))
    return ChainPosterior(*arrays, jnp.full(count, FRAMES, jnp.int32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(seed=st.integers(0, 10**6), gap=st.sampled_from([0.1, 3.0, 30.0, 60.0, 100.0, 200.0, 800.0]))
@example(seed=0, gap=200.0)
def test_equals_float64_in_log_space(x64, kind, dtype, seed, gap):
    q = batch(kind, seed, gap, dtype)
    q, seen = jax.device_get((q, passes(q)))
    for i in range(len(q.length)):
        check(*jax.tree.map(lambda a, i=i: a[i], (q, seen)))


@pytest.mark.parametrize("frames", [1, 5, 6])
def test_one_chain_and_many_take_other_loops_and_agree(frames):
    rng = np.random.default_rng(frames)
    lengths = jnp.arange(1, frames + 1).repeat(5)
    emission = rng.normal(size=(len(lengths), frames, 3)).astype(np.float32)
    emission[np.arange(frames) >= np.asarray(lengths)[:, None]] = np.nan
    first, transition = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(3,), (3, 3)])

    def one(x):
        q = ChainPosterior(first, transition, *x)
        return q.log_partition(), q.mean()

    alone, together = jax.jit(lambda x: (jax.lax.map(one, x), jax.vmap(one)(x)))((jnp.asarray(emission), lengths))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, together)
    text = [jax.jit(jax.vmap(one)).lower((emission[:n], lengths[:n])).as_text() for n in (1, 5)]
    if jax.default_backend() == "cpu":
        assert ["sqrt" in t for t in text] == [frames > 1, False]


def test_padding_behind_a_state_that_leads_nowhere_needs_no_log_space():
    transition = jnp.array([[0.0, 0.0], [LOG_ZERO, LOG_ZERO]])
    q = ChainPosterior(jnp.zeros(2), transition, jnp.zeros((12, 2)).at[3, 0].set(LOG_ZERO), jnp.array(4))
    for count in (1, 8):
        (log_z, marginals), right = jax.vmap(lambda q: chain_scaled.smooth(*q._clean()))(stack([q] * count))
        assert right.all()
        np.testing.assert_allclose(log_z, np.zeros(count), atol=1e-6)
        np.testing.assert_allclose(marginals.states[0, :, 0], [1, 1, 1] + [0] * 9, atol=1e-6)


@pytest.mark.parametrize("homogeneous", [True, False])
def test_no_datum_takes_others_to_log_space(homogeneous):
    """One that holds NaN or infinity, one that is impossible, and states that fit best but that nothing reaches."""
    q = jax.tree.map(np.asarray, random_chain(0, 20, 3, homogeneous=homogeneous))
    apart = np.where([[True, False, False]] * 3, 0.0, LOG_ZERO) + 0 * q.transition
    first, fit = np.array([0.0, LOG_ZERO, LOG_ZERO]), q.states + np.array([0.0, 12.0, 12.0])
    put = lambda t, k, x: np.where((np.arange(20) == t)[:, None] & (np.arange(3) == k), x, q.states)
    chains = [(q.initial, q.transition, put(3, 1, x)) for x in (0.0, np.nan, np.inf)]
    chains += [(q.initial, q.transition, put(4, np.arange(3), -np.inf)), (first, apart, put(19, 0, LOG_ZERO))]
    chains += [(first, apart, fit)]
    batch = ChainPosterior(*(jnp.asarray(np.stack(a), jnp.float32) for a in zip(*chains, strict=True)), jnp.full(6, 20))
    seen = jax.jit(jax.vmap(rescaled))(batch)
    (log_z, marginals), right = seen["smooth"]
    assert right.all() and seen["value"][1][1:4].all()
    assert np.isnan(log_z[1:3]).all() and (log_z[3:5] == LOG_ZERO).all()
    np.testing.assert_allclose(marginals.states[5, :, 0], np.ones(20), rtol=1e-6)
    assert not marginals.states[5, :, 1:].any() and not marginals.transitions[5, :, 1:].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_named_cases(x64, dtype):
    """Two states that never change."""
    stay = jnp.where(jnp.eye(2, dtype=bool), 0, LOG_ZERO)
    # the second fits 10 nats a frame better, and cannot be reached, or is 500 nats behind
    fit = jnp.stack([jnp.full(24, -10.01), jnp.zeros(24)], 1)
    # ahead by 200 nats, then by 500 on the other side, then by 201 again
    lead = jnp.zeros((24, 2)).at[:5, 0].set(jnp.array([200.0, 0, -500, 201, 99]))
    # lost bit by bit at the start and, seen from the end, lost there too; the frames in between make up for both
    middle = jnp.zeros((24, 2)).at[:5, 0].set(-30.0).at[5:15, 0].set(30.0).at[15:20, 0].set(-29.0)
    first = jnp.array([[0.0, LOG_ZERO], [0.0, -500.0], [0.0, 0.0], [0.0, 0.0]])
    q = ChainPosterior(first, jnp.stack([stay] * 4), jnp.stack([fit, fit, lead, middle]), jnp.full(4, 24, jnp.int32))
    q = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == jnp.float64 else a, q)
    # each chain by itself: one that needs log space takes its whole batch there
    one = jax.jit(lambda q: (q.log_partition(), q.mean().states))
    log_z, mean = stack([one(jax.tree.map(lambda a, i=i: a[i], q)) for i in range(4)])
    tolerance = 1e-4 if dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(log_z, [-240.24, -240.24, np.log(2), np.logaddexp(5, 0)], rtol=tolerance)
    share = np.array([[1], [1], [0.5], [1 / (1 + np.exp(-5))]])
    np.testing.assert_allclose(mean[:, :, 0], share * np.ones(24), atol=tolerance)


def test_ordinary_chains_need_no_log_space():
    # emissions far apart, a matrix trained until some entries are tiny, one with zeros
    rng = np.random.default_rng(0)
    frames, states = 400, 5
    path = rng.integers(0, states, frames // 20).repeat(20)
    emission = jnp.asarray(-40.0 * (np.arange(states) != path[:, None]) + rng.normal(size=(frames, states)))
    sticky = jnp.where(jnp.eye(states, dtype=bool), 0.0, -10.0)
    band = jnp.where(abs(jnp.arange(states)[:, None] - jnp.arange(states)) <= 1, 0.0, LOG_ZERO)
    for transition, alone in ((jnp.zeros((5, 5)), True), (sticky, True), (3 * sticky, True), (band, False)):
        p, n = ChainPosterior(jnp.zeros(states), transition, emission, jnp.array(frames))._clean()
        assert chain_scaled.log_partition(p, n)[1] == alone
    # where zeros forbid nothing that the data ask for by many nats, both passes together are enough
    slow = jnp.asarray(-4.0 * (np.arange(states) - 2 - 2 * np.sin(np.arange(frames) / 30)[:, None]) ** 2)
    p, n = ChainPosterior(jnp.zeros(states), band, slow, jnp.array(frames))._clean()
    (log_z, marginals), right = jax.jit(chain_scaled.smooth)(p, n)
    assert right
    truth = smoothed(ChainPosterior(p.initial, p.transitions, p.states, n))
    np.testing.assert_allclose(log_z, truth[0], rtol=1e-6)
    np.testing.assert_allclose(marginals.transitions, truth[1][1], atol=1e-3)


@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_float32_of_a_long_chain(x64, spread):
    rng = np.random.default_rng(1)
    transition = jax.nn.log_softmax(3 * jnp.asarray(rng.normal(size=(5, 5))))
    emission = jnp.asarray(spread * rng.normal(size=(100_000, 5)) - 3)

    @jax.jit
    def f(q):
        (log_z, marginals), right = chain_scaled.smooth(*q._clean())
        return log_z, q.log_partition(), marginals, right

    exact = ChainPosterior(jnp.zeros(5), transition, emission, jnp.array(100_000))
    single = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, exact)
    (log_z, forwards, marginals, right), truth = f(single), f(exact)
    assert right and log_z.dtype == jnp.float32
    np.testing.assert_allclose([log_z, forwards], truth[0], rtol=1e-5)
    np.testing.assert_allclose(marginals.transitions, truth[2].transitions, rtol=1e-4)
    np.testing.assert_allclose(marginals.states, truth[2].states, atol=1e-4)


def test_float32_of_a_long_chain_in_log_space(x64):
    # all the other tests of log space are short
    rng = np.random.default_rng(2)
    q = ChainPosterior(
        jnp.zeros(3), jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=(20_000, 3))), jnp.array(20_000)
    )
    single = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, q)
    (log_z, marginals), (truth, exact) = chain_log.smooth(*single._clean()), chain_log.smooth(*q._clean())
    np.testing.assert_allclose(log_z, truth, rtol=1e-6)
    np.testing.assert_allclose(marginals.transitions, exact.transitions, rtol=1e-4)
    np.testing.assert_allclose(marginals.states, exact.states, atol=1e-4)
