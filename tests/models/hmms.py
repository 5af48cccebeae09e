"""Hidden Markov models to test on: one of each kind of emission, small data, and EM as a list of steps."""

from functools import cache

import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.models import hmm
from elbo.models.families import Bernoulli, Categorical, LinearGaussian, MultivariateNormal, Normal, Poisson

rng = np.random.default_rng(0)
KINDS = ("diagonal", "full", "tied", "poisson", "categorical", "bernoulli", "mixture", "mixture of categoricals")
START = np.array([0.6, 0.3, 0.1])
STEPS = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
CENTRES = np.array([[0.0, 0.0], [3.0, 1.0], [-1.0, 4.0]])
LENGTHS = np.array([12, 1, 7, 20])


def draws():
    states = rng.integers(3, size=(4, 20))
    return CENTRES[states] + rng.normal(size=(4, 20, 2)), states


REALS, COUNTS = draws()
COUNTS = rng.poisson(1.0 + 4 * COUNTS)


def emission(kind):
    normal = Normal.create(jnp.asarray(CENTRES), jnp.ones((3, 2)), floor=0.0)
    full = MultivariateNormal.create(jnp.asarray(CENTRES), jnp.tile(jnp.eye(2), (3, 1, 1)))
    tied = MultivariateNormal.create(jnp.asarray(CENTRES), jnp.eye(2), covariance_type="tied")
    return {
        "diagonal": normal,
        "full": full,
        "tied": tied,
        "poisson": Poisson.create(jnp.array([[1.0], [5.0], [9.0]])),
        "categorical": Categorical.create(jnp.asarray(rng_rows(3, 6))),
        "bernoulli": Bernoulli.create(jnp.array([[0.2, 0.6], [0.7, 0.4], [0.5, 0.9]])),
        "mixture of categoricals": hmm.MixtureEmission(
            Categorical(jnp.zeros((3, 2))), Categorical.create(jnp.asarray(rng_rows(6, 6).reshape(3, 2, 6)))
        ),
        "mixture": hmm.MixtureEmission(
            Categorical.create(jnp.asarray(rng_rows(3, 2))),
            Normal.create(jnp.asarray(CENTRES)[:, None] + jnp.array([[0.0], [1.0]]), jnp.ones((3, 2, 2))),
        ),
    }[kind]


def rng_rows(rows, columns):
    table = np.random.default_rng(1).gamma(1.0, size=(rows, columns)) + 0.1
    return table / table.sum(1, keepdims=True)


def values(kind):
    if kind == "poisson":
        return jnp.asarray(COUNTS[..., None], float)
    if "categorical" in kind:
        return jnp.asarray(np.minimum(COUNTS, 5))
    return jnp.asarray((REALS > 1).astype(float) if kind == "bernoulli" else REALS)


def problem(kind, lengths=LENGTHS):
    theta = hmm.Theta(Categorical.create(jnp.asarray(START)), Categorical.create(jnp.asarray(STEPS)), emission(kind))
    ys = elbo.Padded(values(kind), jnp.asarray(lengths))
    return MODEL, elbo.Params.tied(theta), ys


REGRESSION = LinearGaussian.create(jnp.ones((3, 2, 1)), jnp.zeros((3, 2)), jnp.ones((3, 2)))
MODEL = hmm.model(3)  # one for all tests, so that problems of one shape share one program
evidence = elbo.evidence(MODEL)
em_step = cache(optim.em_step)


def em(model, params, ys, steps, rule=None):
    rule = rule or em_step(model)
    history = []
    for _ in range(steps):
        params, _, info = rule.update(None, params, (), ys)
        history.append(info)
    return params, history
