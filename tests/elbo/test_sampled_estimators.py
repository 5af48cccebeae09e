"""Score function and relaxed estimators: against the gradient of the objective summed over every path."""

from functools import cache, partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import Automatic, Relaxed, ScoreFunction, StructureError

from .chains import listed, random_chain
from .problems import normal

ESTIMATORS = {
    "plain": ScoreFunction(3, baseline=False),
    "leave one out": ScoreFunction(3),
    "hot": Relaxed(2.0),
    "cold": Relaxed(0.2),
    "straight through": Relaxed(0.5, straight_through=True),
}


Q = slice(-15, -1)  # of a flat gradient with the value behind it: the part in q, 2 + 4 + 8 numbers


def energy(theta, path):
    """Not affine in the path: a recurrent network that reads it."""

    def step(h, z):
        h = jnp.tanh(theta["w"] @ jnp.concatenate([z, h]))
        return h, h

    _, h = jax.lax.scan(step, jnp.zeros(2), path.states)
    return -5 + jnp.sum(jnp.square(h @ theta["v"])) + path.transitions[0, 1] * h[-1, 0]


def setting():
    q = random_chain(3, 4, 2, spread=0.7)
    return {"w": normal(1, 2, 4), "v": normal(2, 2)}, q


def bound(estimator, params, key):
    theta, q = params
    return estimator(partial(energy, theta), q, key) + q.entropy()


def exact(params):
    """By enumeration."""
    theta, q = params
    paths = jax.vmap(q.path)(jnp.asarray(listed(4, 2)))
    log_q = jax.vmap(q.log_prob)(paths)
    values = jax.vmap(partial(energy, theta))(paths)
    return jnp.sum(jnp.exp(log_q) * (values - log_q))


def potentials(params):
    """What is differentiated: theta, and q without its length."""
    theta, q = params
    return theta, (q.initial, q.transition, q.states)


@cache
def measured():
    """The exact value and gradient, and those of 4000 keys of each estimator, flat and in float64."""
    with jax.enable_x64(True):
        theta, q = setting()

        def slope(f):
            def value(theta, numbers, *rest):
                return f((theta, elbo.posteriors.ChainPosterior(*numbers, q.length)), *rest)

            def flat(*args):
                v, g = jax.value_and_grad(value, argnums=(0, 1))(*args)
                return jnp.append(jax.flatten_util.ravel_pytree(g)[0], v)

            return jax.jit(flat)

        at = potentials((theta, q))
        keys = jax.random.split(jax.random.key(0), 4000)
        each = {
            name: np.asarray(jax.vmap(slope(partial(bound, e)), (None, None, 0))(*at, keys))
            for name, e in ESTIMATORS.items()
        }
        return np.asarray(slope(exact)(*at)), each


@pytest.mark.parametrize("name", ["plain", "leave one out"])
def test_score_function_is_unbiased_in_theta_in_q_and_in_its_value(name):
    truth, each = measured()
    draws = each[name]
    error = draws.std(0) / len(draws) ** 0.5
    assert (np.abs(draws.mean(0) - truth) < 5 * error + 1e-12).all()
    assert (error[:-1] < 0.1 * np.abs(truth[:-1]).max()).all()  # so that the test can fail


def test_the_baseline_takes_variance_away():
    _, each = measured()
    spread = {name: draws[:, Q].var(0).sum() for name, draws in each.items()}  # in q
    assert spread["leave one out"] < 0.3 * spread["plain"]


def test_the_bias_of_relaxed_samples_falls_with_the_temperature_and_their_variance_grows():
    truth, each = measured()
    scale = np.linalg.norm(truth[Q])
    bias = {name: np.linalg.norm((draws.mean(0) - truth)[Q]) / scale for name, draws in each.items()}
    noise = {name: np.sqrt(draws.var(0)[Q].sum() / len(draws)) / scale for name, draws in each.items()}
    assert bias["hot"] > 0.1 and bias["hot"] > 20 * noise["hot"]
    assert bias["cold"] < 5 * noise["cold"] and bias["cold"] < 0.5 * bias["hot"]
    assert noise["cold"] > 3 * noise["hot"]


def test_straight_through_is_exact_in_its_value_and_in_theta():
    truth, each = measured()
    draws = each["straight through"]
    error = draws.std(0) / len(draws) ** 0.5
    gap = np.abs(draws.mean(0) - truth)
    assert gap[-1] < 5 * error[-1] and (gap[: Q.start] < 5 * error[: Q.start] + 1e-12).all()
    assert (gap[Q] > 5 * error[Q]).any()  # and biased in q


def test_a_cold_relaxed_path_is_the_sample_of_the_same_key(x64, key):
    q = random_chain(0, 6, 3, homogeneous=False, length=4)
    keys = jax.random.split(key, 50)
    soft = jax.jit(jax.vmap(lambda k: q.relaxed(k, 1e-5)))(keys)
    hard = jax.jit(jax.vmap(q.sample))(keys)
    for a, b in zip(soft, hard, strict=True):
        assert np.isclose(a, b, atol=1e-6).mean() > 0.99  # but for ties
    warm = q.relaxed(key, 1.0)
    np.testing.assert_allclose(warm.states.sum(1), [1, 1, 1, 1, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(warm.transitions.sum(), 3, rtol=1e-12)
    short = elbo.posteriors.ChainPosterior(q.initial, q.transition[:3], q.states[:4], q.length)
    np.testing.assert_allclose(short.relaxed(key, 1.0).states, warm.states[:4], rtol=1e-12)
    np.testing.assert_array_equal(warm.transitions[3:], 0)


def test_relaxed_paths_avoid_what_is_impossible_with_finite_gradients(key):
    """float32, a transition and a state of probability zero. The temperature is traced."""
    transition = jnp.array([[0.0, -jnp.inf, 0.0], [0.0, 0.0, 0.0], [-jnp.inf, 0.0, 0.0]])
    states = jnp.zeros((5, 3)).at[2, 1].set(-jnp.inf)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def slope(numbers, temperature):
        path = elbo.posteriors.ChainPosterior(*numbers, jnp.array(5)).relaxed(key, temperature)
        Relaxed(temperature)(jnp.sum, elbo.CategoricalPosterior(numbers[0]), key)
        return jnp.sum(jnp.sin(path.states @ jnp.arange(3.0))) + path.transitions[1, 1] ** 2, path

    for temperature in (0.01, 1.0):
        slopes, path = slope((jnp.zeros(3), transition, states), temperature)
        assert all(np.isfinite(a).all() and a.dtype == jnp.float32 for a in slopes)
        assert path.states[2, 1] == 0 and np.isfinite(path.states).all()


def test_straight_through_is_the_hard_sample_to_the_last_bit(key):
    group = elbo.CategoricalPosterior(normal(0, 4, 3).astype(jnp.float32))
    seen = []
    Relaxed(0.7, straight_through=True)(lambda z: (seen.append(z), jnp.sum(z**2))[1], group, key)
    f = lambda z: jnp.sum(jnp.exp(z) * jnp.arange(12.0).reshape(4, 3))
    ours = jax.vmap(lambda k: Relaxed(0.7, straight_through=True)(f, group, k))(jax.random.split(key, 20))
    theirs = jax.vmap(lambda k: f(group.sample(jax.random.split(k, 1)[0])))(jax.random.split(key, 20))
    np.testing.assert_array_equal(ours, theirs)
    assert len(seen) == 1


def test_groups_of_categoricals(x64, key):
    """Two variables of two values: the score function's mean, and the relaxed samples' at a low temperature."""
    logits, table = normal(0, 2, 2), normal(1, 2, 2)
    f = lambda z: jnp.square(z[0] @ table @ z[1] + 1)
    truth = jax.grad(lambda a: jnp.sum(jnp.outer(*jax.nn.softmax(a)) * jnp.square(table + 1)))(logits)

    def slopes(estimator):
        one = jax.grad(lambda a, k: estimator(f, elbo.CategoricalPosterior(a), k))
        return jax.jit(jax.vmap(one, (None, 0)))(logits, jax.random.split(key, 4000))

    for estimator, slack in ((ScoreFunction(2), 0), (Relaxed(0.1, samples=2), 0.05)):
        draws = slopes(estimator)
        assert (jnp.abs(draws.mean(0) - truth) < 5 * draws.std(0) / 4000**0.5 + slack * jnp.abs(truth).max()).all()


def test_automatic_takes_the_other_one_only_where_it_must(key):
    chain = random_chain(0, 3, 2)
    terms = lambda z: (jnp.sum(z.states[:, 1]), jnp.sum(z.states[:, 1]) ** 2)
    other = ScoreFunction(4)
    affine, square = elbo._estimators.expect_terms(terms, chain, Automatic(other), key)
    assert affine == chain.mean().states[:, 1].sum() and square == other(lambda z: terms(z)[1], chain, key)
    assert Automatic(other).choose(jnp.sum, elbo.CategoricalPosterior(jnp.zeros(2))) == elbo.ClosedForm()


def test_a_constant_signal_gives_no_gradient_with_a_baseline(key):
    q = elbo.CategoricalPosterior(jnp.arange(3.0))
    f = lambda q: ScoreFunction(2)(lambda z: {"a": 1e4 * jnp.sum(z)}, q, key)["a"]
    value, slope = jax.value_and_grad(f)(q)
    assert value == 1e4 and (slope.logits == 0).all()


@pytest.mark.parametrize("estimator", [ScoreFunction(3), Relaxed(0.5, samples=3)])
def test_arrays_are_estimated_entry_by_entry(estimator, key):
    """As statistics are, which come with a value."""
    f = lambda q, pick: estimator(lambda z: pick(jnp.exp(z)), q, key)
    q = elbo.CategoricalPosterior(jnp.arange(3.0))
    whole = jax.jacobian(lambda q: f(q, lambda a: {"a": a}))(q)["a"].logits
    np.testing.assert_allclose(whole[1], jax.grad(lambda q: f(q, lambda a: a[1]))(q).logits, rtol=1e-6)


def test_the_temperature_may_fall_while_one_trains(key):
    q, f = elbo.CategoricalPosterior(jnp.arange(3.0)), lambda z: jnp.sum(z**2)
    values = jax.vmap(lambda t: Relaxed(t)(f, q, key))(jnp.array([0.5, 2.0, 0.0, -1.0]))  # traced
    np.testing.assert_allclose(values[:2], [Relaxed(0.5)(f, q, key), Relaxed(2.0)(f, q, key)], rtol=1e-6)
    assert np.isnan(values[2:]).all()


def test_errors(key):
    chain = random_chain(0, 3, 2)
    square = lambda z: jnp.sum(z.states) ** 2
    with pytest.raises(StructureError, match=r"no estimator fits a Chain.*ScoreFunction\(samples\).*Relaxed\(temp"):
        Automatic()(square, chain, key)
    with pytest.raises(StructureError, match=r"Relaxed\(\) needs a posterior with relaxed.*got Normal.*Reparameter"):
        Relaxed()(square, elbo.NormalPosterior(jnp.zeros(1), jnp.zeros(1)), key)
    for estimator in (ScoreFunction(), Relaxed()):
        with pytest.raises(ValueError, match=rf"key: got None, but {type(estimator).__name__}\(\) draws samples"):
            estimator(square, chain, None)
    with pytest.raises(ValueError, match="samples: got 1, expected at least 2 draws.*or pass baseline=False"):
        ScoreFunction(1)
    with pytest.raises(ValueError, match="samples: got 0, expected at least 1"):
        ScoreFunction(0, baseline=False)
    with pytest.raises(ValueError, match="samples: got 0"):
        Relaxed(samples=0)
    with pytest.raises(ValueError, match=r"temperature: got 0\.0, expected a positive"):
        Relaxed(0.0)
