"""Alignments: counts, numerics and the structure; the rest is in `test_structures.py`."""

import functools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import elbo
from elbo import LOG_ZERO, Labelled, Padded, StructureError
from elbo.posteriors import AlignmentPosterior
from elbo.posteriors.alignment import log_space as alignment_log
from elbo.posteriors.alignment import mantissas, passes
from elbo.posteriors.alignment.path import join

from .alignments import listed, random_alignment, smoothed, values
from .enumeration import enumerate_values, stack, take

CASES = [(5, 2, 0), (5, 2, 1), (4, 2, 0), (3, 2, 1), (3, 1, 0), (5, 0, 0), (1, 1, 0), (1, 2, 0), (2, 2, 1)]


def test_log_space(x64):
    """What the derivatives of marginals are made from."""
    batch = [random_alignment(i, *case) for i, case in enumerate(CASES)]
    log_z, mean = jax.jit(jax.vmap(lambda q: alignment_log.smooth(*q._clean())))(stack(batch))
    for i, q in enumerate(batch):
        truth = enumerate_values(q, values(q).z)
        np.testing.assert_allclose(log_z[i], max(truth.log_partition, LOG_ZERO), atol=1e-13)
        np.testing.assert_allclose(join(take(mean, i)), truth.mean[0], atol=1e-14)


@functools.cache
def log_z_and_mean():
    def one(q):
        return q.log_partition(), q.mean()

    return jax.jit(jax.vmap(one))


def test_counts_are_binomial(x64):
    """Zero potentials: a label sequence without repeats has C(T + L, 2L) alignments; each repeat costs a frame."""
    for frames, labels in ((5, 2), (40, 12)):
        repeats = np.zeros((3, labels), bool)
        repeats[1, -1:], repeats[2, 1:] = True, True
        states = jnp.zeros((3, frames, 2 * labels + 1))
        counts = [comb(frames + labels - r, 2 * labels) for r in (0, 1, labels - 1)]
        q = AlignmentPosterior(states, jnp.asarray(repeats), jnp.full(3, frames), jnp.full(3, labels))
        log_z, mean = log_z_and_mean()(q)
        np.testing.assert_allclose(log_z, np.log(counts), rtol=1e-13)
        np.testing.assert_allclose(mean.sum(-1), 1, rtol=1e-13)
    assert len(listed(5, [False] * 2)) == comb(7, 4)


def test_no_more_frames_than_needed(x64):
    """T = L: one path; T = L − 1: none; a repeated label needs one frame more."""
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.normal(size=(4, 4, 7)))
    repeats = jnp.array([[False] * 3] * 3 + [[False, True, False]])
    log_z, mean = log_z_and_mean()(
        AlignmentPosterior(states, repeats, jnp.array([3, 2, 3, 4]), jnp.array([3, 3, 3, 3]))
    )
    assert log_z[1] == LOG_ZERO and not mean[1].any()
    np.testing.assert_allclose(log_z[0], sum(states[0, t, 2 * t + 1] for t in range(3)), rtol=1e-13)
    np.testing.assert_allclose(mean[3], np.eye(7)[[1, 2, 3, 5]], atol=1e-15)


# numerics


def left_behind(rng, frames, size, gap):
    """What finishes is behind from the first frames on, and catches up at the end."""
    states = rng.normal(size=(frames, size))
    states[: frames // 2, size // 2 :] -= gap
    states[frames // 2 :, size // 2 :] += gap * rng.choice([0, 1, 2])
    states[:, 0] += gap * rng.random()
    return states


def reversing(rng, frames, size, gap):
    """Blanks or labels are ahead by the gap, and later the others."""
    lead = gap * rng.choice([-1, 1, 2.5, -2.5], size=frames)
    return rng.normal(size=(frames, size)) + np.outer(lead, np.arange(size) % 2)


def hard_zeros(rng, frames, size, gap):
    """Zeros in every place; often no path is left."""
    return np.where(rng.random((frames, size)) < 0.3, LOG_ZERO, gap / 10 * rng.normal(size=(frames, size)))


def rough(rng, frames, size, gap):
    """Everything is possible, hardly anything is probable."""
    return -gap * rng.random((frames, size)) ** 3


KINDS = [left_behind, reversing, hard_zeros, rough]
MANY, FEW = 20, 4  # frames and labels: more than a block of the scaled pass


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@given(seed=st.integers(0, 10**6), gap=st.sampled_from([0.1, 3.0, 30.0, 60.0, 100.0, 200.0, 800.0, 1e5]))
@example(seed=0, gap=200.0)
def test_equals_float64_in_log_space(x64, dtype, seed, gap):
    rng = np.random.default_rng(seed)
    states = np.stack([kind(rng, MANY, 2 * FEW + 1, gap) for kind in KINDS] * 2).astype(dtype)
    repeats = rng.random((len(states), FEW)) < 0.3
    size = jnp.full(len(states), MANY), jnp.full(len(states), FEW)
    log_z, mean = log_z_and_mean()(AlignmentPosterior(jnp.asarray(states), jnp.asarray(repeats), *size))
    for i in range(len(states)):
        truth, marginals = smoothed(states[i], repeats[i])
        if truth == -np.inf:
            assert log_z[i] == dtype(LOG_ZERO) and not mean[i].any()
            continue
        largest = np.abs(np.where(states[i] > 1e-6 * LOG_ZERO, states[i], 0)).max()
        error = 8 * MANY * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(log_z[i], truth, rtol=error, atol=error)
        # a potential is known up to its own rounding
        np.testing.assert_allclose(mean[i], marginals, atol=error * (1 + largest / 8))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_far_state_that_carries_the_only_finishing_path(x64, dtype):
    """Label 1 is possible in frame 0 alone, 5000 nats behind; blank 0 looks best until the end, and never finishes."""
    states = np.full((1, 40, 5), LOG_ZERO)
    states[0, :, 0] = 0
    states[0, 0, 1] = -5000
    states[0, 1:, 2] = -100
    states[0, -1, 3] = 300
    q = AlignmentPosterior(jnp.asarray(states, dtype), jnp.zeros((1, 2), bool), jnp.array([40]), jnp.array([2]))
    log_z, mean = log_z_and_mean()(q)
    np.testing.assert_allclose(log_z, -5000 - 38 * 100 + 300, rtol=1e-6)
    np.testing.assert_allclose(mean[0], np.eye(5)[[1] + [2] * 38 + [3]], atol=1e-6)


def test_float32_of_random_logits(x64):
    """Where a pass that divides by the largest state is wrong by many nats: 1e-5 relative in ln Z, and marginals."""
    rng = np.random.default_rng(0)
    frames, labels, offset = 1500, 100, np.log(5000) + 0.5
    for shift in (-offset, 3e4):  # a constant in each frame makes ln Z large, not wrong
        states = (rng.standard_normal((1, frames, 2 * labels + 1)) + shift).astype(np.float32)
        states[..., ::2] = states[..., :1]
        repeats = rng.random((1, labels)) < 0.05
        truth, marginals = smoothed(states[0], repeats[0])
        log_z, mean = log_z_and_mean()(
            AlignmentPosterior(jnp.asarray(states), jnp.asarray(repeats), jnp.array([frames]), jnp.array([labels]))
        )
        assert log_z.dtype == mean.dtype == jnp.float32
        np.testing.assert_allclose(log_z[0], truth, rtol=1e-6)
        np.testing.assert_allclose(mean[0], marginals, atol=2e-3 if shift > 0 else 1e-4)
        np.testing.assert_allclose(mean[0].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("frames", [3, 16, MANY])
def test_the_form_for_accelerators(frames):
    """Whole blocks of frames: the same numbers, and no loop whose length the compiler does not know."""
    q = stack([random_alignment(i, frames, 3, i % 2) for i in range(4)])
    problem = jax.vmap(lambda q: q._clean())(q)
    for a, b in zip(
        *(jax.tree.leaves(jax.jit(f)(*problem)) for f in (passes.smooth_in_whole_blocks, mantissas.smooth)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    loops = [e.primitive.name for e in equations(jax.make_jaxpr(passes.smooth_in_whole_blocks)(*problem).jaxpr)]
    assert "while" not in loops and loops.count("scan") == 4


def equations(jaxpr):
    """All equations, those of bodies too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")
        ):
            if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                yield from equations(getattr(value, "jaxpr", value))


def test_vmaps_are_one_loop_and_lengths_compile_nothing():
    q = stack([random_alignment(i, *case) for i, case in enumerate(CASES[:4])])
    grid = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), q)
    traces = []

    @jax.jit
    def f(q):
        traces.append(1)
        return jax.vmap(jax.vmap(lambda q: q.log_partition()))(q)

    text = f.lower(grid).compile().as_text()
    # blocks, and frames in them, of the whole batch
    assert text.count(" while(") <= 2 and "f32[2,2,5,3]" in text
    one, other = f(grid), f(AlignmentPosterior(grid.states, grid.repeats, grid.length - 1, grid.count))
    np.testing.assert_allclose(one.reshape(4), log_z_and_mean()(q)[0], rtol=1e-6)
    assert len(traces) == 1 and not np.allclose(one, other)


def test_shared_arguments_under_vmap():
    q = random_alignment(1, 4, 2, 0)
    states = jnp.stack([q.states, q.states + 1])
    log_z = jax.vmap(lambda s: AlignmentPosterior(s, q.repeats, q.length, q.count).log_partition())(states)
    np.testing.assert_allclose(log_z[1] - log_z[0], 4, rtol=1e-6)


# the structure


def test_structure(x64):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(4, 5)))
    y = Labelled(Padded(jnp.zeros((7, 1)), jnp.array(5)), Padded(jnp.array([3, 3]), jnp.array(2)))
    q = elbo.alignment(stride=2).posterior(lambda z: jnp.sum(z * table), y)
    assert (int(q.length), int(q.count), q.repeats.tolist()) == (3, 2, [False, True])
    np.testing.assert_allclose(q.log_partition(), enumerate_values(q, values(q).z).log_partition, atol=1e-13)
    with pytest.raises(StructureError, match="not affine"):
        elbo.alignment().posterior(lambda z: jnp.sum(z) ** 2, y)
    empty = elbo.alignment().posterior(jnp.sum, Labelled(jnp.zeros((3, 1)), jnp.zeros(0, jnp.int32)))
    assert empty.log_partition() == 3 and empty.best()[0].tolist() == [0, 0, 0]


def test_wrong_arguments():
    q = random_alignment(0, 4, 2, 0)
    with pytest.raises(ValueError, match=r"states: got float32\[5, 4\], expected floating-point numbers \[T, 2L\+1\]"):
        AlignmentPosterior(q.states[:, :4], q.repeats, q.length, q.count).mean()
    with pytest.raises(ValueError, match=r"repeats: got bool\[3\], expected bool \[2\]"):
        AlignmentPosterior(q.states, jnp.zeros(3, bool), q.length, q.count).mean()
    with pytest.raises(ValueError, match=r"count: got int32\[1\], expected an int scalar"):
        AlignmentPosterior(q.states, q.repeats, q.length, q.count[None]).mean()
    with pytest.raises(ValueError, match=r"states: got int32\[4\], expected integers \[5\]"):
        q.path(jnp.zeros(4, jnp.int32))
    with pytest.raises(ValueError, match="y: got ArrayImpl, expected elbo.Labelled"):
        elbo.alignment().posterior(jnp.sum, jnp.zeros(3))
    with pytest.raises(ValueError, match="stride: got 0"):
        elbo.alignment(0)
