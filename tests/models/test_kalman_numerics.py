"""Kalman models whose states hardly move, far from 0, from any start: against a filter and smoother in long double."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo.models import linear_gaussian_chain as chain
from elbo.models import linear_gaussian_inference as inference
from elbo.models.families import LinearGaussian, MultivariateNormal

pytestmark = pytest.mark.usefixtures("x64")
FRAMES, LENGTH = 60, 52
TREND, SEEN = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([1.0, 0.0])
MODEL = chain.model(2)


def local_trend(level, steps, starts, dtype) -> chain.Theta:
    """A level that moves by a slope that moves, seen with noise 1."""
    a, c, none = jnp.asarray(TREND, dtype), jnp.asarray(SEEN[None], dtype), jnp.zeros(2, dtype)
    return chain.Theta(
        MultivariateNormal.of_scale(jnp.asarray([level, 0], dtype), jnp.asarray(starts, dtype)),
        LinearGaussian.create(a, none, jnp.asarray(steps, dtype)),
        LinearGaussian.create(c, none[:1], jnp.ones(1, dtype)),
    )


def by_hand(level, steps, starts, y):
    """ln P(y), and means and covariances of each frame given all, and of the last one."""
    wide = np.longdouble
    mean, variance = np.array([level, 0], wide), np.diag(np.square(np.array(starts, wide)))
    noise, total, past, ahead = np.diag(np.square(np.array(steps, wide))), wide(0), [], []
    for t, value in enumerate(y.astype(wide)):
        if t:
            mean, variance = TREND @ mean, TREND @ variance @ TREND.T + noise
        ahead.append((mean, variance))
        if not np.isnan(value):
            spread, miss = variance[0, 0] + 1, value - mean[0]
            gain = variance[:, 0] / spread
            rest = np.eye(2) - np.outer(gain, SEEN)
            mean, variance = mean + gain * miss, rest @ variance @ rest.T + np.outer(gain, gain)
            total -= (np.log(2 * np.pi * spread) + miss**2 / spread) / 2
        past.append((mean, variance))
    smoothed = [past[-1]]
    for (mean, variance), (before, spread) in zip(past[-2::-1], ahead[:0:-1], strict=True):
        (a, b), (_, d) = spread
        inverse = np.array([[d, -b], [-b, a]]) / (a * d - b * b)
        back = variance @ TREND.T @ inverse
        rest, (after, certain) = np.eye(2) - back @ TREND, smoothed[0]
        noisy = rest @ variance @ rest.T + back @ (noise + certain) @ back.T
        smoothed.insert(0, (mean + back @ (after - before), noisy))
    return float(total), *(np.array([s[i] for s in smoothed], float) for i in (0, 1))


@jax.jit
def answers(theta, y):
    q, ys = MODEL.encoder(theta, y), jax.tree.map(lambda a: a[None], y)
    filtered = jax.tree.map(lambda a: a[0], inference.filter(MODEL, elbo.Params(theta), ys))
    log_p = elbo.evidence(MODEL)(elbo.Params.tied(theta), ys)[0]
    return log_p, jnp.sum(filtered.log_likelihood), q.mean(), q.covariances(), filtered.mean, filtered.covariance


CASES = [
    (3.0, (1.0, 0.1), (1.0, 1.0)),
    (3.0, (0.1, 0.01), (3e3, 3e3)),  # of the start nothing is known
    (3.0, (1e-3, 1e-5), (1.0, 1.0)),
    (3.0, (1e-4, 1e-4), (1e3, 1e3)),
    (3.0, (1e-8, 1e-8), (1.0, 1.0)),
    (1e3, (1e-4, 1e-6), (10.0, 0.1)),
    (0.0, (0.1, 1e-8), (1e-8, 1e-8)),  # of the start all is known
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_filter_smoother_and_evidence_agree_to_the_digits_of_the_dtype(dtype):
    eps = max(np.finfo(dtype).eps, 1e-14)  # by hand, 1e-19 of a variance 1e7 is lost
    for level, steps, starts in CASES:
        y = (level + np.random.default_rng(0).normal(size=(FRAMES, 1))).astype(dtype)
        y[7:11] = np.nan
        y[LENGTH:] = np.nan
        theta = local_trend(level, steps, starts, dtype)
        kept = [np.exp(np.asarray(a, float)) for a in (theta.transition.log_scale, -jnp.diagonal(theta.initial.root))]
        expected = by_hand(level, *kept, y[:LENGTH, 0].astype(float))
        log_p, filtered, mean, covariance, last, last_covariance = (
            np.asarray(a) for a in answers(theta, elbo.Padded(jnp.asarray(y), jnp.asarray(LENGTH)))
        )
        assert log_p.dtype == mean.dtype == dtype
        name = str((level, steps, starts))
        spread = np.sqrt(np.diagonal(expected[2], axis1=1, axis2=2))
        # evidence: squares of residuals, and ln det of precisions; means: in standard deviations, and of what they hold
        np.testing.assert_allclose(
            (log_p, filtered), expected[0], rtol=0, atol=2e4 * eps * (1 + level / 1e3), err_msg=name
        )
        gaps = np.abs(mean[:LENGTH] - expected[1]) / spread, np.abs(last[LENGTH - 1] - expected[1][-1]) / spread[-1]
        assert max(map(np.max, gaps)) < 1e3 * eps + 4 * eps * level / spread.min(), name
        scale = spread[:, :, None] * spread[:, None, :]
        assert np.max(np.abs(covariance[:LENGTH] - expected[2]) / scale) < 500 * eps, name
        assert np.max(np.abs(last_covariance[LENGTH - 1] - expected[2][-1]) / scale[-1]) < 500 * eps, name
