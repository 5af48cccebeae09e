"""check_model on families of one's own: a right one passes, and of a wrong one it says what is wrong."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import optim
from elbo.models import criteria, hmm, mixture
from elbo.models.families import Categorical, Poisson, PseudoData, PseudoScale


def contract(tap, x):
    return tap[..., 0] + tap[..., 1] * x


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponential:
    """Waiting times. Statistics: Σ 1 and Σ x, [*batch, 2]."""

    log_rate: jax.Array
    tap: Any = None

    @elbo.extend.density
    def log_prob(self, x):
        return elbo.extend.tapped(contract, self.log_rate - jnp.exp(self.log_rate) * x, self.tap, x)

    def zero_statistics(self):
        return jnp.zeros((*self.log_rate.shape, 2), self.log_rate.dtype)

    @property
    def batch_shape(self):
        return self.log_rate.shape

    def empty(self, s):
        return s[..., 0] <= 0

    def log_likelihood(self, s):
        return jnp.sum(s[..., 0] * self.log_rate - s[..., 1] * jnp.exp(self.log_rate))

    def maximize(self, s):
        new = jnp.log(s[..., 0]) - jnp.log(s[..., 1])
        return type(self)(jnp.where(self.empty(s), self.log_rate, new))

    def statistics_of(self, reference):
        return jnp.stack(jnp.broadcast_arrays(1.0, jnp.exp(-reference.log_rate)), -1)

    def rebase(self, statistics, old):
        return statistics


def untapped(self, x):
    return self.log_rate - jnp.exp(self.log_rate) * x


def tapped_with(contract, scale=1.0):
    @elbo.extend.density
    def log_prob(self, x):
        return elbo.extend.tapped(contract, scale * untapped(self, x), self.tap, x)

    return log_prob


def upside_down(self, s):
    return type(self)(jnp.where(self.empty(s), self.log_rate, jnp.log(s[..., 1]) - jnp.log(s[..., 0])))


# what is replaced, and a part of what is said
BROKEN = {
    "an M step upside down": ({"maximize": upside_down}, "maximize lowers ln P from"),
    "an M step half way": (
        {"maximize": lambda self, s: type(self)(0.5 * (self.log_rate + Exponential.maximize(self, s).log_rate))},
        "has a slope in log_rate",
    ),
    "a log_prob without tapped": ({"log_prob": untapped}, "whose value must be elbo.extend.tapped(...)"),
    "a contract of other statistics": (
        {"log_prob": tapped_with(lambda tap, x: tap[..., 0] + tap[..., 1] * x**2)},
        "and log_likelihood of its statistics by",
    ),
    "another density than the likelihood": (
        {"log_prob": tapped_with(contract, 2.0)},
        "log_likelihood of its statistics",
    ),
    "statistics of a wrong shape": (
        {"zero_statistics": lambda self: jnp.zeros(2), "empty": lambda self, s: jnp.full(self.log_rate.shape, False)},
        "contract returned shape [] for a tap of shapes [[2]], expected [2], that of value",
    ),
    "a likelihood of each component": (
        {"log_likelihood": lambda self, s: s[..., 0] * self.log_rate - s[..., 1] * jnp.exp(self.log_rate)},
        "log_likelihood returns float32[2], expected a scalar",
    ),
    "empty of the whole": ({"empty": lambda self, s: jnp.all(s <= 0)}, "empty returns bool[], expected bool[2]"),
    "an M step of the batch": (
        {"maximize": lambda self, s: type(self)(jnp.log(jnp.sum(s[..., 0]) / jnp.sum(s[..., 1])))},
        "maximize returns",
    ),
    "nothing kept": (
        {"maximize": lambda self, s: type(self)(jnp.log(s[..., 0] / jnp.maximum(s[..., 1], 1e-6) + 1e-9))},
        "an empty component keeps its parameters",
    ),
    "statistics_of another": (
        {"statistics_of": lambda self, reference: jnp.stack([jnp.ones(2), 3 * jnp.exp(-reference.log_rate)], -1)},
        "statistics_of()",
    ),
    "rebase": ({"rebase": lambda self, s, old: 2 * s}, "rebase() brings"),
}
LOG_JOINT = lambda theta, z, y: z @ (jnp.log(0.5) + theta.log_prob(y))
MODEL = elbo.Model(LOG_JOINT, elbo.exact(LOG_JOINT, elbo.categorical(2)))
WAITS = jnp.asarray(np.random.default_rng(0).exponential(size=12) * np.repeat([1.0, 9.0], 6), jnp.float32)


def message(**methods) -> str:
    """What check_model says of the families of a mixture of two waiting times."""
    kind = type("Waits", (Exponential,), methods)
    jax.tree_util.register_dataclass(kind, data_fields=["log_rate", "tap"], meta_fields=[])
    log_joint = lambda theta, z, y: z @ (jnp.log(0.5) + theta["wait"].log_prob(y))
    theta = {"wait": kind(jnp.array([0.0, -1.0]))}
    report = elbo.check_model(
        elbo.Model(log_joint, lambda psi, y: elbo.CategoricalPosterior(psi)),
        elbo.Params(theta, jnp.array([0.2, 0.5])),
        WAITS,
    )
    found = next(check for check in report.checks if check.name == "families")
    assert report.ok == found.ok, str(report)
    return "" if found.ok else found.message


def test_a_right_family():
    assert message() == ""


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name):
    methods, expected = BROKEN[name]
    said = message(**methods)
    assert expected in said and ("theta['wait']" in said or "contract" in said), said


def test_optional_methods_are_asked_for():
    """By an error that says what to add, where the family has none but the required methods."""
    family = Exponential(jnp.zeros(2))
    theta = mixture.Theta(Categorical.create(jnp.array([0.5, 0.5])), family)
    bare = type("Bare", (), {})()
    calls = {
        r"Exponential has no method `sample`. Add it: sample\(key\)": lambda: mixture.sample(
            jax.random.key(0), theta, 3
        ),
        r"Exponential has no method free_parameters\(\)": lambda: criteria.free_parameters(theta),
        "Exponential has no method sample": lambda: hmm.sample(
            jax.random.key(0), hmm.Theta(theta.weights, Categorical(jnp.zeros((2, 2))), family), 3
        ),
        r"Bare has no method `statistics_of`. Add it: statistics_of\(reference\)": lambda: PseudoData(
            bare, 1.0
        ).statistics(bare),
        "PseudoScale needs a family with a scale, got Exponential": lambda: PseudoScale(family, 1.0).statistics(family),
        "Exponential has no method expected": lambda: optim.damp(MODEL, optim.em_step(MODEL), 0.5).init(
            elbo.Params.tied(family)
        ),
    }
    for message, call in calls.items():
        with pytest.raises(TypeError, match=message):
            call()


def test_a_family_read_outside():
    def log_joint(theta, z, y):
        return z @ (theta.log_prob(y) - theta.rate()[:, 0])

    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    theta = Poisson.create(jnp.array([[1.0], [3.0]]))
    report = elbo.check_model(model, elbo.Params.tied(theta), jnp.array([[0.0], [2.0]]))
    assert "WRONG families: log_joint: reads theta outside of its log_prob" in str(report)
