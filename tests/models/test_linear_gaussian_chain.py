"""The Kalman model against a dense Gaussian over all frames and a hand-written smoother and M step, in numpy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbo
from elbo import optim
from elbo.models import linear_gaussian_chain as chain
from elbo.models import linear_gaussian_inference as inference
from elbo.models.families import LinearGaussian, MultivariateNormal
from elbo.models.families._estimate import estimate

pytestmark = pytest.mark.usefixtures("x64")
LATENT, WIDTH, FRAMES = 2, 3, 6


def parameters(seed=0, *, latent=LATENT, width=WIDTH, entries=False, dtype=float) -> chain.Theta:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(latent, latent))
    weights, bias, scale = (
        rng.normal(size=(width, latent)),
        rng.normal(size=width),
        np.exp(0.3 * rng.normal(size=width)),
    )
    if entries:
        weights, bias, scale = weights[:, None], bias[:, None], scale[:, None]
    theta = chain.Theta(
        MultivariateNormal.create(jnp.asarray(rng.normal(size=latent)), jnp.asarray(half @ half.T + np.eye(latent))),
        LinearGaussian.create(
            jnp.asarray(0.4 * rng.normal(size=(latent, latent)) + 0.5 * np.eye(latent)),
            jnp.asarray(rng.normal(size=latent)),
            jnp.asarray(np.exp(0.3 * rng.normal(size=latent))),
        ),
        LinearGaussian.create(jnp.asarray(weights), jnp.asarray(bias), jnp.asarray(scale)),
    )
    return jax.tree.map(lambda a: a.astype(dtype), theta)


def by_hand(theta):
    """A, b, Q, C, d, R, m, P as numpy arrays."""
    a, c = (np.asarray(f.weights).reshape(-1, f.input_size) for f in (theta.transition, theta.observation))
    q, r = (np.diag(np.asarray(f.scale()).ravel() ** 2) for f in (theta.transition, theta.observation))
    b, d = (np.asarray(f.bias).ravel() for f in (theta.transition, theta.observation))
    return a, b, q, c, d, r, np.asarray(theta.initial.mean), np.asarray(theta.initial.covariance())


def dense(theta, frames):
    """Mean and covariance of (z_1..z_T, y_1..y_T), [T (D + E)]."""
    a, b, q, c, d, r, m, p = by_hand(theta)
    size = len(m)
    # (z_1 .. z_T) = M (z_1 noise, noises) + offsets
    mean, factor = [m], [np.eye(size, frames * size)]
    for t in range(1, frames):
        mean.append(a @ mean[-1] + b)
        factor.append(a @ factor[-1] + np.eye(size, frames * size, t * size))
    noise = np.zeros((frames * size, frames * size))
    for t in range(frames):
        noise[t * size : (t + 1) * size, t * size : (t + 1) * size] = q if t else p
    mean, factor = np.concatenate(mean), np.concatenate(factor)
    zz = factor @ noise @ factor.T
    big = np.kron(np.eye(frames), c)
    yy = big @ zz @ big.T + np.kron(np.eye(frames), r)
    return np.concatenate([mean, big @ mean + np.tile(d, frames)]), np.block([[zz, zz @ big.T], [big @ zz, yy]])


def condition(theta, y):
    """ln P(observed y), and the mean and covariance of z given them; y [T, E] with NaN where missing."""
    frames, size = len(y), theta.initial.event_size
    mean, covariance = dense(theta, frames)
    z = np.arange(frames * size)
    seen = frames * size + np.flatnonzero(~np.isnan(y.ravel()))
    values = y.ravel()[~np.isnan(y.ravel())]
    if not len(seen):
        return 0.0, mean[z].reshape(frames, size), covariance[np.ix_(z, z)].reshape(frames, size, frames, size)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, z)]).T
    log_p = scipy.stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(values)
    loc = mean[z] + gain @ (values - mean[seen])
    posterior = covariance[np.ix_(z, z)] - gain @ covariance[np.ix_(seen, z)]
    return log_p, loc.reshape(frames, size), posterior.reshape(frames, size, frames, size)


def observations(missing="frames", seed=0, count=6):
    """Sequences of the lengths 1..count, holes in them and NaN behind them."""
    rng = np.random.default_rng(seed)
    values = 2 * rng.normal(size=(count, FRAMES, WIDTH))
    if missing == "frames":
        values[rng.random((count, FRAMES)) < 0.25] = np.nan
    elif missing == "entries":
        values[rng.random(values.shape) < 0.3] = np.nan
    lengths = np.arange(count) % FRAMES + 1
    for i, n in enumerate(lengths):
        values[i, n:] = np.nan
    return elbo.Padded(jnp.asarray(values), jnp.asarray(lengths, jnp.int32))


def sequences(ys):
    return [np.asarray(v)[:n] for v, n in zip(ys.values, np.asarray(ys.length), strict=True)]


@pytest.mark.parametrize("missing", ["none", "frames", "entries"])
def test_equals_a_dense_gaussian_at_every_length_and_with_holes(missing):
    theta, ys = parameters(entries=missing == "entries"), observations(missing)
    params = elbo.Params.tied(theta)
    model = chain.model(LATENT, missing=missing)
    # these do not read `missing`, which would cost their tracing again: that theta has entries is all they see of it
    forward = [] if missing == "none" else [inference.filter, inference.predict_one_step]
    questions = [*forward, inference.smooth] if missing == "frames" else forward

    @jax.jit
    def everything(params, ys):
        def one(y):
            q = model.encoder(params.theta, y)
            return q.mean(), q.covariances(), q.cross_covariances()

        asked = [ask(model, params, ys) for ask in questions]
        return elbo.evidence(model)(params, ys), jax.vmap(one)(ys), asked

    evidence, q, asked = everything(params, ys)
    if missing == "frames":
        np.testing.assert_array_equal(asked[2].mean, q[0])
        np.testing.assert_array_equal(asked[2].covariance, q[1])
    weights, bias, noise = by_hand(theta)[3:6]
    for i, y in enumerate(sequences(ys)):
        log_p, loc, covariance = condition(theta, y)
        np.testing.assert_allclose(evidence[i], log_p, rtol=1e-10)
        np.testing.assert_allclose(q[0][i, : len(y)], loc, rtol=1e-9, atol=1e-10)
        for t in range(len(y)):
            np.testing.assert_allclose(q[1][i, t], covariance[t, :, t], rtol=1e-9, atol=1e-10)
        for t in range(len(y) - 1):
            np.testing.assert_allclose(q[2][i, t], covariance[t, :, t + 1], rtol=1e-9, atol=1e-10)
        if missing == "none":
            continue
        filtered, predicted = asked[:2]
        np.testing.assert_allclose(np.sum(filtered.log_likelihood[i]), log_p, rtol=1e-10)
        for t in range(len(y)):
            _, past, variance = condition(theta, y[: t + 1])
            np.testing.assert_allclose(filtered.mean[i, t], past[t], rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(filtered.covariance[i, t], variance[t, :, t], rtol=1e-9, atol=1e-10)
            _, past, variance = condition(theta, np.vstack([y[:t], np.full((1, WIDTH), np.nan)]))
            np.testing.assert_allclose(predicted.mean[i, t], weights @ past[t] + bias, rtol=1e-9, atol=1e-10)
            expected = weights @ variance[t, :, t] @ weights.T + noise
            np.testing.assert_allclose(predicted.covariance[i, t], expected, rtol=1e-9, atol=1e-10)


def test_forecasts_stand_in_the_padding():
    theta, ys = parameters(), observations().values[5:]
    model, params = chain.model(LATENT), elbo.Params(theta)
    hidden = elbo.Padded(ys, jnp.array([4]))
    expected = condition(theta, np.vstack([np.asarray(ys[0])[:4], np.full((2, WIDTH), np.nan)]))[1]
    np.testing.assert_allclose(inference.filter(model, params, hidden).mean[0, 5], expected[5], rtol=1e-9)
    smoothed = inference.smooth(model, params, hidden)
    assert (smoothed.mean[0, 4:] == 0).all() and (smoothed.covariance[0, 4:] == 0).all()


def hand_em(theta, ys):
    """One step of Shumway & Stoffer (1982) from dense posterior moments, with biases and diagonal noise."""
    b_z, b_zz, t_xx, t_yx, t_yy, e_xx, e_yx, e_yy = ([] for _ in range(8))
    for y in ys:
        _, loc, covariance = condition(theta, y)
        one = np.concatenate([np.ones((len(y), 1)), loc], 1)

        def second(s, t, one=one, covariance=covariance):
            return np.outer(one[s], one[t]) + np.pad(covariance[s, :, t], ((1, 0), (1, 0)))

        b_z.append(loc[0])
        b_zz.append(second(0, 0)[1:, 1:])
        for t in range(len(y) - 1):
            t_xx.append(second(t, t))
            t_yx.append(second(t + 1, t)[1:])
            t_yy.append(np.diag(second(t + 1, t + 1))[1:])
        for t in np.flatnonzero(~np.isnan(y).any(1)):
            e_xx.append(second(t, t))
            e_yx.append(np.outer(y[t], one[t]))
            e_yy.append(y[t] ** 2)

    def regress(xx, yx, yy):
        coefficients = np.linalg.solve(np.sum(xx, 0), np.sum(yx, 0).T).T
        return (
            coefficients[:, 1:],
            coefficients[:, 0],
            (np.sum(yy, 0) - np.sum(coefficients * np.sum(yx, 0), 1)) / len(xx),
        )

    mean = np.mean(b_z, 0)
    return mean, np.mean(b_zz, 0) - np.outer(mean, mean), *regress(t_xx, t_yx, t_yy), *regress(e_xx, e_yx, e_yy)


def test_em_equals_shumway_and_stoffer_and_never_decreases(counted):
    update, ys, weights = counted[1], observations(seed=4, count=12), jnp.ones(12)
    params = elbo.Params.tied(parameters())
    for _ in range(3):
        mean, covariance, a, b, q, c, d, r = hand_em(params.theta, sequences(ys))
        params, _, info = update(params, ys, weights)
        ours = by_hand(params.theta)
        for name, x, expected in zip(
            "abqcdrmp", ours, (a, b, np.diag(q), c, d, np.diag(r), mean, covariance), strict=True
        ):
            np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-9, err_msg=name)
        assert bool(info.feasible) and int(info.dropped) == 0
    history = [info.elbo]
    for _ in range(30):
        params, _, info = update(params, ys, weights)
        history.append(info.elbo)
    assert never_decreases(np.asarray(history))


def never_decreases(history):
    return np.all(np.diff(history) > -1e-9) and history[-1] > history[0] + 0.1


def test_em_never_decreases_with_single_entries_missing(key):
    ys = observations("entries", seed=2, count=12)
    params = chain.init(key, ys, LATENT, missing="entries")
    with jax.debug_nans(True):  # none in what a run returns, though missing entries are NaN
        result = optim.run(optim.em_step(chain.model(LATENT, missing="entries")), params, ys, steps=40)
    assert never_decreases(np.asarray(result.history.elbo))


def test_the_model_keeps_its_promises_and_one_is_two(key):
    """With one latent dimension, which costs the least to compile."""
    theta, psi, ys = parameters(latent=1), parameters(1, latent=1), observations(count=1)
    ys = ys._replace(length=ys.length + 3)
    model = chain.model(1)
    ys = ys._replace(values=ys.values.at[0, 3].set(1.0))
    d = elbo.decompose(model)(elbo.Params(theta, psi), ys)
    np.testing.assert_allclose(d.elbo, d.evidence - d.kl, rtol=1e-10)
    assert np.all(np.asarray(d.kl) > 0.01)
    # with the estimator of `decompose`, whose program then serves again
    report = elbo.check_model(model, elbo.Params(theta, psi), ys, key=key, estimator=elbo.Automatic())
    assert report.ok, str(report)


def test_fishers_identity():
    """The gradient of ln P(y), by differentiating the filter, is that of L at the exact posterior."""
    theta, ys = parameters(), observations()
    model = chain.model(LATENT)

    def bound(theta, psi):
        return jnp.sum(elbo.elbo(model)(elbo.Params(theta, psi), ys))

    def marginal(theta):
        return jnp.sum(inference.filter(model, elbo.Params(theta), ys).log_likelihood)

    ours, theirs = jax.jit(jax.grad(bound))(theta, theta), jax.jit(jax.grad(marginal))(theta)
    for f, g in zip(ours, theirs, strict=True):
        for name in ("mean", "root", "weights", "bias", "log_scale"):
            if name in {field.name for field in dataclasses.fields(f)}:
                a, b = getattr(f, name), getattr(g, name)
                a, b = (jnp.tril(a), jnp.tril(b)) if name == "root" else (a, b)
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=name)


def test_samples_have_the_moments_of_the_model(key):
    theta = parameters()
    z, y = jax.jit(partial(chain.sample, frames=3, count=4000))(key, theta)
    mean, covariance = dense(theta, 3)
    both = np.concatenate([z.reshape(4000, -1), y.reshape(4000, -1)], 1)
    error = np.sqrt(np.diag(covariance) / 4000)
    assert np.all(np.abs(both.mean(0) - mean) < 5 * error)
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / 4000)
    assert np.all(np.abs(np.cov(both.T) - covariance) < 5 * spread)


@pytest.fixture(scope="module")
def counted():
    """An EM step of twelve sequences, jitted; compiled, for three tests; and the calls of its log_joint."""
    plain, calls = chain.model(LATENT), []

    def log_joint(theta, z, y):
        calls.append(1)
        return plain.log_joint(theta, z, y)

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.gaussian_chain(LATENT)), plain.usable)
    rule = optim.em_step(model, chunk_size=5)
    update = jax.jit(lambda params, ys, weights: rule.update(None, params, (), ys, weights=weights))
    with jax.enable_x64(True):
        params = elbo.Params(parameters(), parameters())
        return update, update.lower(params, observations(count=12), jnp.ones(12)).compile(), calls


def test_a_nan_where_none_may_be_is_dropped_and_reported(counted):
    ys, update = observations(count=12), counted[1]
    bad = ys._replace(values=ys.values.at[5, 0].set(jnp.array([1.0, jnp.nan, 1.0])).at[4, 0].set(jnp.inf))
    bad = bad._replace(length=bad.length.at[0].set(0))
    params = elbo.Params(parameters(), parameters())
    new, _, info = update(params, bad, jnp.ones(12))
    assert int(info.dropped) == 3 and bool(info.finite)
    weights = jnp.ones(12).at[jnp.array([0, 4, 5])].set(0)
    alone, _, info = update(params, ys, weights)
    assert int(info.dropped) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), new, alone)
    usable = jax.vmap(chain.model(LATENT, missing="entries").usable)(bad)
    assert usable.tolist() == [False, True, True, True, False, True] + 6 * [True]
    assert not bool(chain.model(LATENT, missing="none").usable(jnp.full((2, WIDTH), jnp.nan)))


def test_float32_agrees_with_float64_over_20000_frames():
    theta = parameters()
    y = jax.jit(partial(chain.sample, frames=20_000, count=1))(jax.random.key(1), theta)[1]
    high = np.sum(inference.filter(chain.model(LATENT), elbo.Params(theta), y).log_likelihood)
    low = jax.tree.map(lambda a: a.astype(jnp.float32), elbo.Params(theta, None))
    low = elbo.evidence(chain.model(LATENT))(low, y.astype(jnp.float32))[0]
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, rtol=1e-4)


def test_the_filter_follows_a_shift_in_float32():
    """Integers and a bias of a million are exact: what is said of z may not change."""
    theta = jax.tree.map(lambda a: a.astype(jnp.float32), parameters(latent=1, width=1))
    y = jnp.array([[0.0], [1.0], [1.0], [2.0], [1.0]], jnp.float32)
    shifted = theta._replace(observation=dataclasses.replace(theta.observation, bias=jnp.full((1,), 1e6, jnp.float32)))
    still = theta._replace(observation=dataclasses.replace(theta.observation, bias=jnp.zeros((1,), jnp.float32)))
    seen = lambda theta, y: inference.filter(chain.model(1), elbo.Params(theta), y[None])
    for a, b in zip(seen(still, y), seen(shifted, y + 1e6), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_lengths_trace_once_and_no_lapack_is_called(counted):
    (update, program, calls), ys = counted, observations(count=12)
    params, weights = elbo.Params(parameters(), parameters()), jnp.ones(12)
    traced = len(calls)
    other = ys._replace(length=ys.length[::-1])
    update.lower(params, other, weights)
    assert len(calls) == traced > 0
    assert program(params, ys, weights)[2].elbo != program(params, other, weights)[2].elbo
    assert 'custom_call_target="lapack' not in program.as_text()


def test_errors_say_what_to_do():
    theta, y = parameters(), jnp.zeros((FRAMES, WIDTH))
    for call, words in (
        (
            lambda: inference.smooth(chain.model(2), elbo.Params(theta), y[None, :, :2]),
            r"y: got float64\[6, 2\], expected floating point \[6, 3\]",
        ),
        (lambda: chain.model(3).encoder(theta, y), r"z: got \[6, 3\], expected \[T, 2\]"),
        (lambda: chain.model(2, missing="entries").encoder(theta, y), r'init\(..., missing="entries"\)'),
        (lambda: chain.model(2, missing="some").encoder(theta, y), "missing: got 'some'"),
        (lambda: chain.init(jax.random.key(0), y, 2), "ys: got"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_an_m_step_given_known_weights_is_the_mean_square_about_the_known_mean():
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(50, 2)), rng.normal(size=(50, 3)) + 1
    weights, bias = jnp.asarray(rng.normal(size=(3, 2))), jnp.zeros(3)
    residual = ys - xs @ np.asarray(weights).T
    for known, mean in ((("weights", "bias"), 0), (("weights",), residual.mean(0))):
        family = LinearGaussian.create(weights, bias, jnp.ones(3), known=known)
        new = estimate(family, jnp.ones(50), jnp.asarray(ys), jnp.asarray(xs))
        np.testing.assert_array_equal(new.weights, weights)
        np.testing.assert_allclose(new.bias, mean * np.ones(3), rtol=1e-10)
        np.testing.assert_allclose(new.scale() ** 2, np.mean((residual - mean) ** 2, 0), rtol=1e-10)
        assert new.free_parameters() == (3 if len(known) == 2 else 6)
    with pytest.raises(ValueError, match="known: got"):
        LinearGaussian.create(weights, bias, jnp.ones(3), known=("slope",))
    with pytest.raises(ValueError, match="scale: got"):
        LinearGaussian.create(weights, bias, jnp.zeros(3))
    with pytest.raises(ValueError, match="covariance: got one that is not positive definite"):
        MultivariateNormal.create(jnp.zeros(2), jnp.ones((2, 2)))


def test_starts_follow_shift_and_scale_and_leave_out_what_em_does(key):
    values = np.random.default_rng(0).normal(size=(6, 9, 3))
    values[0, 3] = np.nan
    start = chain.init(key, jnp.asarray(values), 1).theta.observation
    moved = chain.init(key, jnp.asarray(values * [1e-12, 1, 1e12] + [0, 5, 0]), 1).theta.observation
    np.testing.assert_allclose(moved.weights / start.weights, [[1e-12], [1], [1e12]], rtol=1e-6)
    np.testing.assert_allclose(moved.scale() / start.scale(), [1e-12, 1, 1e12], rtol=1e-6)
    np.testing.assert_allclose(moved.floor / start.floor, [1e-12, 1, 1e12], rtol=1e-6)
    np.testing.assert_allclose(moved.bias[1], start.bias[1] + 5, rtol=1e-6)
    junk = np.concatenate([values, 1e9 * np.ones((1, 9, 3))])
    junk[-1, 2, 0] = np.nan  # half a frame: not usable where whole frames are missing
    for ys, weights in ((junk, None), (junk.clip(-1e9, 1e9), jnp.array([1.0] * 6 + [0]))):
        other = chain.init(key, jnp.asarray(ys), 1, weights=weights).theta.observation
        jax.tree.map(np.testing.assert_array_equal, other, start)


def test_constant_data_stay_finite(key):
    ys = jnp.full((1, 20, 1), 2.5)
    result = optim.run(optim.em_step(chain.model(1)), chain.init(key, ys, 1), ys, steps=5)
    assert np.isfinite(result.history.objective).all() and not np.asarray(result.history.dropped).any()
