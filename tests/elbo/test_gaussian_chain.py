"""A Gaussian chain against a dense Gaussian over all frames, by numpy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import elbo
from elbo.posteriors import GaussianChainPosterior
from elbo.posteriors.gaussian_chain import passes as passes

from .problems import normal, within

pytestmark = pytest.mark.usefixtures("x64")
FRAMES, SIZE = 5, 2


def blocks(seed: int, frames: int = FRAMES, size: int = SIZE):
    """linear, diagonal and below of a random chain: Λ = C Cᵀ with C block-bidiagonal."""
    rng = np.random.default_rng(seed)
    own = np.tril(rng.normal(size=(frames, size, size)))
    own += (1 + np.abs(own)) * np.eye(size)
    down = rng.normal(size=(frames, size, size))
    down[0] = 0
    diagonal = own @ own.swapaxes(1, 2) + down @ down.swapaxes(1, 2)
    below = down[1:] @ own[:-1].swapaxes(1, 2)
    return tuple(jnp.asarray(a) for a in (rng.normal(size=(frames, size)), diagonal, below))


def dense(linear, diagonal, below, length=None):
    """Mean [n D] and covariance of the first n frames."""
    frames, size = linear.shape
    n = frames if length is None else length
    precision = np.zeros((n, size, n, size))
    for t in range(n):
        precision[t, :, t] = diagonal[t]
    for t in range(n - 1):
        precision[t + 1, :, t], precision[t, :, t + 1] = below[t], np.asarray(below[t]).T
    covariance = np.linalg.inv(precision.reshape(n * size, -1))
    return covariance @ np.asarray(linear[:n]).ravel(), covariance


def junk(args, length):
    """The same blocks with NaN in the padding."""
    linear, diagonal, below = args
    return linear.at[length:].set(jnp.nan), diagonal.at[length:].set(jnp.nan), below.at[length - 1 :].set(jnp.nan)


def summary(q, f, z):
    return {
        "mean": q.mean(),
        "mode": q.mode(),
        "covariances": q.covariances(),
        "crosses": q.cross_covariances(),
        "entropy": q.entropy(),
        "log_prob": q.log_prob(z),
        "expected": q.expect_quadratic(f),
    }


def quadratic(frames, size, seed=3):
    """A scalar that couples neighbours, as vectorised code."""
    a, b, c = normal(seed, frames, size, size), normal(seed + 1, frames, size, size), normal(seed + 2, frames, size)

    def f(z):
        return jnp.einsum("ti,tij,tj->", z, a, z) + jnp.einsum("ti,tij,tj->", z[1:], b[1:], z[:-1]) + jnp.sum(c * z) + 1

    return f


@jax.jit
def seen(args, length, z):
    return summary(GaussianChainPosterior.from_precision(*args, length), quadratic(FRAMES, SIZE), z)


@pytest.mark.parametrize("length", range(1, FRAMES + 1))
def test_equals_a_dense_gaussian_at_every_length_with_nan_in_the_padding(length):
    args, z = blocks(length), np.asarray(normal(9, FRAMES, SIZE))
    ours = seen(junk(args, length), length, jnp.asarray(z).at[length:].set(jnp.nan))
    mean, covariance = dense(*args, length)
    full = np.zeros((FRAMES, SIZE, FRAMES, SIZE))
    full[:length, :, :length] = covariance.reshape(length, SIZE, length, SIZE)
    loc = np.zeros((FRAMES, SIZE))
    loc[:length] = mean.reshape(length, SIZE)
    truth = scipy.stats.multivariate_normal(mean, covariance)
    f = quadratic(FRAMES, SIZE)
    hessian = np.asarray(jax.hessian(f)(jnp.zeros((FRAMES, SIZE))))
    expected = {
        "mean": loc,
        "mode": loc,
        "covariances": np.stack([full[t, :, t] for t in range(FRAMES)]),
        "crosses": np.stack([full[t, :, t + 1] for t in range(FRAMES - 1)]),
        "entropy": truth.entropy(),
        "log_prob": truth.logpdf(z[:length].ravel()),
        "expected": f(loc) + 0.5 * np.sum(hessian * full),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


@jax.jit
def moments(linear, diagonal, below):
    q = GaussianChainPosterior.from_precision(linear, diagonal, below)
    return q.mean().ravel(), q.covariances(), q.cross_covariances(), q.entropy()


@pytest.mark.parametrize(("frames", "size"), [(1, 1), (1, 3), (6, 1)])
def test_one_frame_and_one_dimension(frames, size):
    @given(st.integers(0, 10**6))
    def check(seed):
        args = blocks(seed, frames, size)
        mean, covariance = dense(*args)
        entropy = scipy.stats.multivariate_normal(mean, covariance).entropy()
        covariance = covariance.reshape(frames, size, frames, size)
        own = [covariance[t, :, t] for t in range(frames)]
        cross = [covariance[t, :, t + 1] for t in range(frames - 1)]
        expected = mean, np.stack(own), np.reshape(cross, (frames - 1, size, size)), entropy
        for a, b in zip(moments(*args), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)

    check()


@pytest.mark.parametrize(("frames", "size"), [(1, 1), (7, 2)])
def test_parallel_equals_sequential(frames, size):
    linear, diagonal, below = blocks(7, frames, size)
    below = jnp.concatenate([jnp.zeros((1, size, size)), below])
    rows = passes.Rows(
        *(jnp.triu(normal(20, size, size)), normal(21, size), normal(22, frames, 3, size), normal(23, frames, 3)),
        *(jnp.pad(normal(24 + i, frames - 1, *(size,) * n), ((0, 1), *((0, 0),) * n)) for i, n in enumerate((2, 2, 1))),
    )
    eliminated = jax.jit(passes.eliminate)(rows)
    for f, g, args in (
        (passes.precision_sequential, passes.precision_parallel, (diagonal, below, linear)),
        (passes.solve_sequential, passes.solve_parallel, eliminated[1:3]),
        (lambda *a: gram(passes.spread_sequential(*a)), lambda *a: gram(passes.spread_parallel(*a)), eliminated[1::-1]),
        (
            lambda *a: what_is_said(*passes.eliminate_sequential(*a)),
            lambda *a: what_is_said(*passes.eliminate_parallel(*a)),
            (rows,),
        ),
    ):
        one, other = jax.jit(f)(*args), jax.jit(g)(*args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), one, other)


def gram(rows, side=None):
    """What rows say, whatever orthogonal map was applied to them."""
    rows = rows if side is None else jnp.concatenate([rows, side[..., None]], -1)
    return jnp.swapaxes(rows, -1, -2) @ rows


def what_is_said(r, c, past, told):
    return gram(r, c), gram(past, told)


def test_samples_have_the_moments_of_the_posterior(key):
    args = blocks(1)
    q = GaussianChainPosterior.from_precision(*junk(args, 4), 4)
    z = np.asarray(jax.jit(jax.vmap(q.sample))(jax.random.split(key, 4000)))
    mean, covariance = dense(*args, 4)
    assert not z[:, 4:].any()
    z = z[:, :4].reshape(len(z), -1)
    assert within(z, mean)
    centred = z - mean
    assert within(centred[:, :, None] * centred[:, None, :], covariance)


def test_padding_changes_no_sample_and_no_gradient(key):
    args = blocks(2)

    def both(args, length=None):
        q = GaussianChainPosterior.from_precision(*args, length)
        return q.sample(key)[:3], q.entropy() + jnp.sum(jnp.sin(q.sample(key)[:3])) + q.log_prob(q.mean() + 1)

    short = args[0][:3], args[1][:3], args[2][:2]
    padded = jax.jit(both, static_argnums=1)(junk(args, 3), 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), padded, jax.jit(both)(short))
    long = jax.jit(jax.grad(lambda a: both(a, 3)[1]))(junk(args, 3))
    alone = jax.jit(jax.grad(lambda a: both(a)[1]))(short)
    for a, b in zip(long, alone, strict=True):
        np.testing.assert_allclose(a[: len(b)], b, rtol=1e-9, atol=1e-11)
        assert not np.asarray(a[len(b) :]).any()


def test_gradients_equal_finite_differences(key):
    args, f = blocks(4), quadratic(FRAMES, SIZE)
    direction = tuple(normal(i, *a.shape) for i, a in enumerate(args))
    direction = (direction[0], direction[1] + direction[1].swapaxes(1, 2), direction[2])

    @jax.jit
    def along(step):
        q = GaussianChainPosterior.from_precision(*(a + step * d for a, d in zip(args, direction, strict=True)))
        return q.entropy() + q.expect_quadratic(f) + q.log_prob(jnp.ones((FRAMES, SIZE))) + jnp.sum(q.sample(key) ** 2)

    h = 1e-5
    np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), (along(h) - along(-h)) / (2 * h), rtol=1e-7)


def test_kl_of_two_chains():
    a, b = blocks(5), blocks(6)
    (m, s), (n, t) = dense(*a), dense(*b)
    inverse = np.linalg.inv(t)
    expected = 0.5 * (
        np.trace(inverse @ s) + (n - m) @ inverse @ (n - m) - m.size + np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
    )
    q, p = (GaussianChainPosterior.from_precision(*args) for args in (a, b))
    np.testing.assert_allclose(jax.jit(lambda: (elbo.kl(q, p), elbo.kl(p, p)))(), (expected, 0), rtol=1e-10, atol=1e-11)


def test_the_structure_reads_the_blocks_off_any_quadratic():
    """The Hessian by probes, with neighbours coupled by rolls and scans."""
    ways = {
        "roll": lambda z: jnp.sum(((z - 0.9 * jnp.roll(z, 1, 0)) * (jnp.arange(FRAMES) > 0)[:, None]) ** 2),
        "scan": lambda z: jax.lax.scan(lambda c, x: (x, jnp.sum((x - 0.9 * c) ** 2)), z[0], z[1:])[1].sum(),
    }
    for f in ways.values():
        q = jax.jit(
            lambda f=f: elbo.gaussian_chain(SIZE).posterior(
                lambda z: -f(z) - jnp.sum(jnp.ones(()) * z**2), jnp.zeros(FRAMES)
            )
        )()
        hessian = jax.hessian(lambda z, f=f: f(z) + jnp.sum(z**2))(jnp.zeros((FRAMES, SIZE)))
        covariance = np.linalg.inv(np.asarray(hessian).reshape(FRAMES * SIZE, -1)).reshape(FRAMES, SIZE, FRAMES, SIZE)
        truth = np.stack([covariance[t, :, t] for t in range(FRAMES)])
        np.testing.assert_allclose(q.covariances(), truth, rtol=1e-11, atol=1e-13)


@jax.jit
def coupled(i, j):
    def f(z):
        return -jnp.sum(z**2) + 0.5 * z[i, 0] * z[j, 1] - 0.1 * jnp.sum(z[1:] * z[:-1])

    q = elbo.gaussian_chain(2).posterior(f, jnp.zeros(7))
    fine = GaussianChainPosterior.from_precision(*blocks(0, 7, 2))
    return q.mean(), fine.expect_quadratic(f)


@pytest.mark.parametrize(("i", "j"), list(itertools.combinations(range(7), 2)))
def test_frames_that_are_coupled_further_apart_are_never_silently_wrong(i, j):
    mean, expected = coupled(i, j)
    if j - i > 1:
        assert np.isnan(mean).all() and np.isnan(expected)
    else:
        assert np.isfinite(mean).all() and np.isfinite(expected)


def test_under_vmap_a_hessian_that_no_datum_changes_is_factorised_once():
    def encode(y):
        return elbo.gaussian_chain(SIZE).posterior(
            lambda z: -jnp.sum(jnp.square(z - y)) - jnp.sum(jnp.square(z[1:] - z[:-1])), y
        )

    q = jax.jit(
        lambda ys: jax.vmap(encode, out_axes=GaussianChainPosterior(0, 0, None, None, None, None, 0, None))(ys)
    )(normal(0, 4, FRAMES, SIZE))  # vmap refuses out_axes None for what it has batched
    assert q.away.shape == (4, FRAMES, SIZE) and q.half.shape == (FRAMES, SIZE, SIZE)


def test_lengths_trace_once_and_no_lapack_is_called():
    calls = []

    @jax.jit
    def f(args, lengths):
        calls.append(1)

        def one(args, length):
            q = GaussianChainPosterior.from_precision(*args, length)
            return q.entropy() + jnp.sum(q.mean())

        return jax.vmap(jax.grad(one), (None, 0))(args, lengths)

    args = blocks(0)
    for lengths in ([1, 2], [5, 3]):
        f(args, jnp.array(lengths, jnp.int32))
    assert len(calls) == 1
    assert 'custom_call_target="lapack' not in f.lower(args, jnp.array([1, 2], jnp.int32)).compile().as_text()


def test_float32_stays_float32_and_is_accurate(key):
    f = quadratic(FRAMES, SIZE)
    f32 = lambda z: f(z).astype(z.dtype)
    high, low = blocks(8), tuple(a.astype(jnp.float32) for a in blocks(8))
    one, other = (
        jax.jit(lambda *a: summary(GaussianChainPosterior.from_precision(*a), f32, a[0]))(*args) for args in (low, high)
    )
    for name in one:
        assert one[name].dtype == jnp.float32
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert GaussianChainPosterior.from_precision(*low).sample(key).dtype == jnp.float32


def test_not_positive_definite_is_nan_not_a_crash():
    linear, diagonal, below = blocks(0)
    q = jax.jit(GaussianChainPosterior.from_precision)(linear, -diagonal, below)
    assert np.isnan(q.entropy()) and np.isnan(q.mean()).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: GaussianChainPosterior.from_precision(*blocks(0), 0),
            "length: got 0, expected 1 to 5",
        ),
        (lambda: GaussianChainPosterior.from_precision(*blocks(0), 6), "length: got 6"),
        (
            lambda: GaussianChainPosterior.from_precision(blocks(0)[0], *blocks(0)[1:][::-1]),
            "diagonal: got",
        ),
        (lambda: GaussianChainPosterior.from_precision(jnp.zeros(3), *blocks(0)[1:]), "linear: got"),
        (lambda: elbo.gaussian_chain(2).posterior(lambda z: -jnp.sum(z**2)), "y: got no datum"),
        (lambda: elbo.gaussian_chain(2).posterior(lambda z: -jnp.sum(z**4), jnp.zeros(3)), "not quadratic"),
        (lambda: elbo.gaussian_chain(2).posterior(lambda z: -(z**2), jnp.zeros(3)), "expected a floating-point scalar"),
    ],
)
def test_errors_say_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()
