"""Semi-Markov chains against every segmentation, a pass written apart, and hidden Markov chains that last."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import LOG_ZERO, Padded, StructureError, optim
from elbo.models.families import Categorical, Normal
from elbo.posteriors import ChainPosterior, Segmentation, SemiMarkovPosterior

from .segmentations import enumerated, log_partition, random_semi_markov, stack

FRAMES, STATES, LONGEST, DRAWS = 4, 2, 3, 4000
KINDS = pytest.mark.parametrize("by_frame", [False, True], ids=["durations", "segments"])


def everything(q, other, key):
    log_z = lambda q: q.log_partition()
    return {
        "log_partition": log_z(q),
        "gradient": jax.grad(log_z, allow_int=True)(q),
        "mean": q.mean(),
        "segments": q.segments(),
        "entropy": q.entropy(),
        "prepared": (q.prepared().mean(), q.prepared().entropy()),
        "kl": elbo.kl(q, other),
        "best": q.best(),
        "mode": q.mode(),
        "samples": jax.vmap(q.sample)(jax.random.split(key, DRAWS)),
    }


@KINDS
def test_equals_enumeration(x64, key, by_frame):
    make = lambda seed, n: random_semi_markov(seed, FRAMES, STATES, LONGEST, by_frame=by_frame, length=n)
    lengths = range(1, FRAMES + 1)  # side by side, with NaN in the padding
    every, others = [make(n, n) for n in lengths], [make(9 + n, n) for n in lengths]
    seen = jax.device_get(jax.jit(jax.vmap(everything, (0, 0, None)))(stack(every), stack(others), key))
    indicators = jax.jit(jax.vmap(lambda q, found: q.path(found), (None, 0)))
    log_probs = jax.jit(jax.vmap(lambda q, z: q.log_prob(z), (None, 0)))
    for i, (q, other) in enumerate(zip(every, others, strict=True)):
        one, truth = jax.tree.map(lambda a, i=i: a[i], seen), enumerated(q)
        z = indicators(q, truth["found"])
        mean = jax.tree.map(lambda a, p=truth["p"]: np.tensordot(p, a, 1), z)
        np.testing.assert_allclose(one["log_partition"], truth["log_partition"], rtol=1e-13)
        for name in ("initial", "transitions", "durations", "states"):
            np.testing.assert_allclose(getattr(one["mean"], name), getattr(mean, name), atol=1e-13)
            np.testing.assert_allclose(getattr(one["gradient"], name), getattr(mean, name), atol=1e-13)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), one["prepared"][0], one["mean"])
        durations = one["segments"] if by_frame else one["segments"].sum(0)
        np.testing.assert_allclose(durations, mean.durations, atol=1e-13)
        entropy = -truth["p"] @ np.log(truth["p"])
        np.testing.assert_allclose([one["entropy"], one["prepared"][1]], [entropy] * 2, atol=1e-12)
        np.testing.assert_allclose(one["kl"], truth["p"] @ np.log(truth["p"] / enumerated(other)["p"]), atol=1e-12)
        np.testing.assert_allclose(np.exp(log_probs(q, z)), truth["p"], rtol=1e-11)
        best, score = one["best"]
        np.testing.assert_allclose(score, truth["score"], rtol=1e-13)
        found = (truth["found"].states == best.states).all(1) & (truth["found"].starts == best.starts).all(1)
        np.testing.assert_allclose(truth["p"][found], [truth["p"].max()], rtol=1e-12)  # another order may be as good
        (top,) = np.flatnonzero(found)
        jax.tree.map(lambda a, b, top=top: np.testing.assert_array_equal(a, b[top]), one["mode"], z)
        # every draw is a segmentation, at its frequency
        flat = lambda tree, n: np.concatenate([np.asarray(a).reshape(n, -1) for a in jax.tree.leaves(tree)], 1)
        rows, drawn = flat(z, len(truth["p"])), flat(one["samples"], DRAWS)
        if not by_frame:  # indicators that only count durations may be those of several segmentations
            rows, index = np.unique(rows, axis=0, return_inverse=True)
            p = np.bincount(index.ravel(), truth["p"])
        else:
            p = truth["p"]
        same = (drawn[:, None] == rows[None]).all(-1)
        assert (same.sum(1) == 1).all()
        assert np.all(np.abs(same.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-12)


@KINDS
def test_the_second_derivative_is_the_covariance(x64, by_frame):
    q = random_semi_markov(0, FRAMES, STATES, LONGEST, by_frame=by_frame)
    truth = enumerated(q)
    z = jax.vmap(q.path)(truth["found"])
    flat = np.concatenate([np.asarray(a).reshape(len(truth["p"]), -1) for a in z], 1)
    mean = truth["p"] @ flat
    covariance = (flat * truth["p"][:, None]).T @ flat - np.outer(mean, mean)
    sizes = [a[0].size for a in z]

    def log_z(vector):
        parts = jnp.split(vector, np.cumsum(sizes)[:-1])
        return SemiMarkovPosterior(
            *(p.reshape(a.shape[1:]) for p, a in zip(parts, z, strict=True)), q.length
        ).log_partition()

    vector = jnp.concatenate([a.ravel() for a in (q.initial, q.transitions, q.durations, q.states)])
    np.testing.assert_allclose(jax.jit(jax.hessian(log_z))(vector), covariance, atol=1e-12)


@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
def test_long_sequences_in_float32(spread):
    """Against a pass over whole segments in float64; potentials far apart, forbidden durations and transitions."""
    q = random_semi_markov(1, 300, 3, 12, spread=spread)
    q = SemiMarkovPosterior(
        *(jnp.asarray(a, jnp.float32) for a in (q.initial, q.transitions, q.durations, q.states)), q.length
    )
    some = SemiMarkovPosterior(
        *(q.initial, q.transitions.at[jnp.arange(3), jnp.arange(3)].set(-jnp.inf)),
        *(q.durations.at[:, :3].set(-jnp.inf).at[1, 6:].set(LOG_ZERO), q.states, q.length),
    )
    run = jax.jit(lambda q: (q.log_partition(), q.mean(), q.best()))
    for one in (q, some):
        log_z, mean, (_, score) = run(one)
        assert abs(log_z - log_partition(one)) <= 3e-6 * np.sum(
            np.abs(np.asarray(one.states)).max(1)
        ) and score <= log_z + 1e-4 * abs(log_z)
        np.testing.assert_allclose(mean.states.sum(1), np.ones(300), atol=2e-4)
        assert abs(float(jnp.sum(mean.durations @ jnp.arange(1.0, 13))) - 300) < 0.1
    assert float(mean.durations[:, :3].sum()) == 0 == float(jnp.trace(mean.transitions))


def test_a_segment_that_cannot_end_in_time_takes_no_digits():
    """State 1 lasts 41 of 40 frames, and would be worth 10,000 nats a frame more than state 0."""
    durations = jnp.full((2, 41), LOG_ZERO).at[0, :3].set(0.0).at[1, 40].set(0.0)

    def seen(cost):
        states = jnp.zeros((40, 2)).at[:, 0].set(-cost)
        q = SemiMarkovPosterior(jnp.zeros(2), jnp.zeros((2, 2)), durations, states, jnp.array(40))
        return q.log_partition(), q.mean().durations[0, :3], q.entropy()

    (_, right, _), (log_z, counts, entropy) = seen(0.0), seen(1e4)
    assert abs(float(log_z) + 4e5 - float(seen(0.0)[0])) < 0.1  # three units of rounding
    np.testing.assert_allclose(counts, right, rtol=1e-4)  # potentials of 1e4 are rounded at 5e-4; it was 1.5e-3
    assert np.isfinite(entropy)


def test_padding_changes_nothing(x64, key):
    short, long = (random_semi_markov(2, n, STATES, LONGEST, length=5) for n in (5, 9))
    long = SemiMarkovPosterior(
        *(short.initial, short.transitions, short.durations), long.states.at[:5].set(short.states), short.length
    )
    assert float(short.log_partition()) == pytest.approx(float(long.log_partition()), rel=1e-14)
    a, b = short.mean(), long.mean()
    np.testing.assert_allclose(a.durations, b.durations, atol=1e-14)
    np.testing.assert_allclose(np.pad(a.states, ((0, 4), (0, 0))), b.states, atol=1e-14)
    np.testing.assert_array_equal(np.pad(short.sample(key).states, ((0, 4), (0, 0))), long.sample(key).states)


def test_geometric_durations_are_a_markov_chain(x64):
    """P(d) ∝ p^(d−1): what a chain of the same length stays in, segments of one state joined."""
    rng = np.random.default_rng(3)
    frames, stay = 6, np.log(np.array([0.3, 0.8]))
    initial, emissions = rng.normal(size=2), rng.normal(size=(frames, 2))
    leave = rng.normal(size=(2, 2)) + np.where(np.eye(2), -np.inf, 0)
    q = SemiMarkovPosterior(
        *(jnp.asarray(a) for a in (initial, leave, stay[:, None] * np.arange(frames), emissions)), jnp.array(6)
    )
    chain = ChainPosterior(
        *(jnp.asarray(a) for a in (initial, np.where(np.eye(2), stay, leave), emissions)), jnp.array(6)
    )
    np.testing.assert_allclose(q.log_partition(), chain.log_partition(), rtol=1e-13)
    np.testing.assert_allclose(q.mean().states, chain.mean().states, atol=1e-13)
    assert q.best()[0].states.tolist() == chain.best()[0].tolist()


def model(states, longest):
    """A hidden semi-Markov model: a law of durations for each state, and normal frames."""

    def log_joint(theta, z, y):
        emission = jax.vmap(theta["frames"].log_prob)(elbo.as_padded(y).clean().values)
        each = jax.vmap(lambda row, counts: row.log_prob(counts))
        rows = jnp.sum(each(theta["next"], z.transitions)) + jnp.sum(each(theta["durations"], z.durations))
        return theta["initial"].log_prob(z.initial) + rows + jnp.sum(z.states * emission)

    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.semi_markov(states, longest)))


def test_em_finds_how_long_states_last(x64, key):
    """The whole of the toolkit on the new structure: durations 2 or 5, no state after itself, lengths that differ."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(30):
        row, state = [], rng.integers(2)
        while len(row) < 40:
            row += [state] * (2 if state == 0 else 5)
            state = 1 - state
        rows.append(row[:40])
    states = np.array(rows)
    ys = jnp.asarray(3.0 * states + rng.normal(size=states.shape))[..., None]
    data = Padded(ys, jnp.asarray(rng.integers(20, 41, 30)))
    theta = {
        "initial": Categorical.create(jnp.array([0.5, 0.5])),
        "next": Categorical.create(jnp.array([[0.0, 1.0], [1.0, 0.0]])),
        "durations": Categorical.create(jnp.full((2, 8), 1 / 8)),
        "frames": Normal.create(jnp.array([[1.0], [2.0]]), jnp.ones((2, 1))),
    }
    hsmm, start = model(2, 8), elbo.Params.tied(theta)
    assert bool(elbo.check_model(hsmm, start, jax.tree.map(lambda a: a[:3], data)))
    result = optim.run(optim.em_step(hsmm), start, data, steps=30)
    history = np.asarray(result.history.elbo)
    assert np.all(np.diff(history) >= -1e-10 * np.abs(history[:-1])) and int(result.final.dropped) == 0
    found = result.params.theta
    np.testing.assert_allclose(found["frames"].mean[:, 0], [0, 3], atol=0.15)
    assert found["durations"].probabilities().argmax(1).tolist() == [1, 4]
    assert np.diag(found["next"].probabilities()).tolist() == [0, 0]
    one = jax.tree.map(lambda a: a[0], data)
    cut = hsmm.encoder(result.params.psi, one).best()[0]
    length = int(one.length)
    assert np.mean(np.asarray(cut.states)[:length] == states[0, :length]) > 0.95


def test_errors_say_what_is_expected():
    q = random_semi_markov(0, 4, 2, 3)
    with pytest.raises(ValueError, match=r"initial, transitions, durations, states: got shapes .* expected \[K\]"):
        SemiMarkovPosterior(q.initial, q.transitions, q.durations.T, q.states, q.length).log_partition()
    with pytest.raises(ValueError, match="length: got 5, expected 1 to 4"):
        SemiMarkovPosterior(q.initial, q.transitions, q.durations, q.states, jnp.array(5)).log_partition()
    with pytest.raises(ValueError, match=r"states: got int32\[3\], expected integers \[4\]"):
        q.path(Segmentation(jnp.zeros(3, jnp.int32), jnp.zeros(3, jnp.int32)))
    with pytest.raises(ValueError, match="longest: got 0"):
        elbo.semi_markov(2, 0)
    with pytest.raises(StructureError, match="is not affine in z"):
        elbo.semi_markov(2, 3).posterior(lambda z: jnp.sum(z.states**2), jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match="z: got shapes"):
        q.log_prob(q.mean()._replace(states=jnp.zeros((3, 2))))
