"""What EM promises where log_joint does more with a family than add up its log_prob; and what it refuses."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats

import elbo
from elbo import optim
from elbo.models.families import Categorical, Normal, Poisson

RNG = np.random.default_rng(0)


def theta(count: Any) -> dict:
    return {"kind": Categorical.create(jnp.array([0.5, 0.5])), "count": count}


def exact(log_joint) -> elbo.Model:
    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))


def climb(model, start, ys, steps=100):
    result = optim.run(optim.em_step(model), elbo.Params.tied(start), ys, steps=steps)
    values = np.asarray(result.history.objective)
    assert (np.diff(values) > -1e-9).all()
    return result.params.theta, values[-1]


def test_counts_with_exposures(x64):
    """Claims, say: each datum was watched for a time of its own. The optimum is that of a generic optimiser."""
    exposure = RNG.uniform(0.2, 8, 60)
    ys = (RNG.poisson(exposure * np.repeat([1.0, 6.0], 30)).astype(float), np.log(exposure))

    def log_joint(theta, z, y):
        count, offset = y
        return theta["kind"].log_prob(z) + z @ theta["count"].log_prob(count[None], offset=offset)

    fitted, value = climb(exact(log_joint), theta(Poisson.create(jnp.array([[0.5], [3.0]]))), ys)

    def loss(x):
        log_p = scipy.stats.poisson.logpmf(ys[0][:, None], np.exp(x[:2]) * exposure[:, None])
        return -np.mean(np.logaddexp.reduce(log_p + np.log([scipy.special.expit(x[2]), scipy.special.expit(-x[2])]), 1))

    best = scipy.optimize.minimize(loss, [0.0, 1.5, 0.0], tol=1e-12)
    np.testing.assert_allclose(value, -best.fun, rtol=1e-8)
    np.testing.assert_allclose(fitted["count"].log_rate[:, 0], best.x[:2], atol=1e-4)


def test_students_t_as_a_scale_mixture(x64):
    """t with 3 degrees of freedom is Normal of precision w ~ Gamma(3/2, 3/2), here on a grid of its quantiles."""
    degrees, size = 3.0, 40
    grid = scipy.stats.gamma(degrees / 2, scale=2 / degrees).ppf((np.arange(size) + 0.5) / size)
    ys = np.append(RNG.normal(size=50), [30.0, -40.0, 55.0])[:, None]

    def log_joint(theta, z, y):
        return jnp.dot(z, jax.vmap(lambda w: theta.log_prob(y, weight=w))(jnp.asarray(grid)) - jnp.log(size))

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(size)))
    fitted, value = climb(model, Normal.create(jnp.zeros(1), jnp.full(1, 3.0)), ys, 300)

    def loss(x):
        each = scipy.stats.norm.logpdf(ys, x[0], np.exp(x[1]) / np.sqrt(grid))
        return -np.mean(np.logaddexp.reduce(each, 1) - np.log(size))

    best = scipy.optimize.minimize(loss, [0.0, 1.0], tol=1e-12)
    np.testing.assert_allclose(value, -best.fun, rtol=1e-9)
    np.testing.assert_allclose([fitted.mean[0], fitted.log_scale[0]], best.x, atol=1e-4)
    assert abs(fitted.mean[0]) < 0.5 and fitted.scale()[0] < ys.std() / 3  # the far data count for little


def test_a_truncated_count(x64):
    """Zeros are never reported: EM adds those that are to be expected. One rate, whose maximum has an equation."""
    ys = np.array([1.0, 1, 2, 2, 3, 1, 4])[:, None]

    def log_joint(theta, z, y):
        unseen = theta.log_prob(jnp.zeros(1))
        return jnp.sum(z) * (theta.log_prob(y) - jnp.log1p(-jnp.exp(unseen)))

    fitted, _ = climb(
        elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(1))), Poisson.create(jnp.ones(1)), ys
    )
    rate = scipy.optimize.brentq(lambda r: r / (1 - np.exp(-r)) - ys.mean(), 0.1, 10)
    np.testing.assert_allclose(fitted.rate()[0], rate, rtol=1e-6)


COUNTS = jnp.array([0.0, 1.0, 2.0, 7.0, 9.0])[:, None]


def by_hand(theta, z, y):
    return theta["kind"].log_prob(z) + z @ (y[0] * theta["count"].log_rate - theta["count"].rate())[:, 0]


def tied(theta, z, y):
    """Rates r and 3 r."""
    thrice = replace(theta["count"], log_rate=theta["count"].log_rate + jnp.log(3.0))
    return theta["kind"].log_prob(z) + z @ jnp.stack([f.log_prob(y)[0] for f in (theta["count"], thrice)])


RULES = {
    "em": optim.em_step,
    "vem": lambda model: optim.vem_step(model, optax.sgd(0.1)),
    "batched em": lambda model: optim.em_step(model, chunk_size=2),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("log_joint", [by_hand, tied])
def test_a_family_that_is_read_is_refused(log_joint, rule):
    start = theta(Poisson.create(jnp.array([[1.0], [5.0]])))
    params = elbo.Params.tied(start)
    rule = RULES[rule](exact(log_joint))
    state = rule.init(params)
    with pytest.raises(elbo.StructureError, match=r"log_joint: .*theta\['count'\].*eg_step"):
        jax.eval_shape(lambda: rule.update(None, params, state, COUNTS))
    with pytest.raises(elbo.StructureError, match=r"theta\['count'\]"):
        jax.eval_shape(
            jax.vmap(lambda p: rule.update(None, p, state, COUNTS)[0].theta), jax.tree.map(lambda a: a[None], params)
        )


def test_a_family_that_does_not_move_may_be_read():
    model, start = exact(by_hand), theta(Poisson.create(jnp.array([[1.0], [5.0]])))
    rule = optim.chain(
        optim.restrict(optim.em_step(model), "theta.kind"),
        optim.restrict(optim.eg_step(model, optax.sgd(0.1)), "theta.count"),
    )
    params = elbo.Params.tied(start)
    new, _, info = rule.update(None, params, rule.init(params), COUNTS)
    assert info.finite and (new.theta["count"].log_rate != start["count"].log_rate).all()
    assert (new.theta["kind"].logits != start["kind"].logits).all()
