"""Semi-Markov chains against a pass written apart and chains that last; the rest is in `test_structures.py`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import LOG_ZERO, Padded, StructureError, optim
from elbo.models.families import Categorical, Normal
from elbo.posteriors import ChainPosterior, Segmentation, SemiMarkovPosterior

from .enumeration import enumerate_values, stack
from .segmentations import log_partition, random_semi_markov, values


@pytest.mark.parametrize("by_frame", [False, True], ids=["durations", "segments"])
def test_segments(x64, by_frame):
    """By frame, whatever the potentials are."""
    batch = [random_semi_markov(n, 4, 2, 3, by_frame=by_frame, length=n) for n in range(1, 5)]
    seen = jax.jit(jax.vmap(lambda q: q.segments()))(stack(batch))
    for q, segments in zip(batch, seen, strict=True):
        each = replace(q, durations=jnp.broadcast_to(q.durations, (4, 2, 3)))
        np.testing.assert_allclose(segments, enumerate_values(each, values(each).z).mean[2], atol=1e-13)


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
