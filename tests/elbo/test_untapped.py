"""What of a family a log_joint may read while EM is exact: the tapped value of its log_prob."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import elbo
from elbo._family import with_tap
from elbo._tap_checks import require_taps
from elbo.models.families import Categorical, LinearGaussian, Normal, Poisson

K, D = 3, 2
THETA = {
    "kind": Categorical(jnp.zeros(K)),
    "rows": Categorical(jnp.zeros((K, K))),
    "count": Poisson(jnp.zeros((K, D))),
    "normal": Normal.create(jnp.zeros((K, D)), jnp.ones((K, D))),
    "line": LinearGaussian.create(jnp.ones((K, D, D)), jnp.zeros((K, D)), jnp.ones((K, D))),
    "free": jnp.ones(K),
}
Z, Y = jnp.ones(K) / K, jnp.ones(D)


def part(family, index):
    return jax.tree.map(lambda a: a[index], family)


def scan(theta, z, y):
    """The forward algorithm, in logarithms."""

    def step(alpha, y):
        return jax.nn.logsumexp(alpha[:, None] + rows, axis=0) + theta["count"].log_prob(y), None

    rows = jax.vmap(theta["rows"].log_prob, out_axes=1)(jnp.eye(K))
    return jax.nn.logsumexp(jax.lax.scan(step, theta["free"], jnp.stack([y, y]))[0])


def loop(theta, z, y):
    first = z @ theta["count"].log_prob(y)
    return jax.lax.fori_loop(0, y.astype(int)[0], lambda i, total: total + z @ theta["normal"].log_prob(y), first)


def truncated(theta, z, y):
    """Counts of 0 are not seen: −ln(1 − p(0)) is convex in ln p(0), and EM adds the zeros that are to be expected."""
    f = theta["count"]
    return z @ (f.log_prob(y) - jnp.log1p(-jnp.exp(f.log_prob(jnp.zeros(D)))))


def scale_mixture(theta, z, y):
    grid = jnp.array([0.2, 1.0, 5.0])
    each = jax.vmap(lambda w: theta["normal"].log_prob(y, weight=w))(grid)
    return z @ jax.nn.logsumexp(each + theta["free"][:, None], axis=0)


def one_of_two(theta, z, y):
    def branch(name):
        return lambda: z @ theta[name].log_prob(y)

    return jax.lax.cond(y[0] > 0, branch("count"), branch("normal"))


def stacked(theta, z, y):
    two = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), theta["count"], theta["count"])
    return jnp.sum(two.log_prob(y))


def regressions(theta, z, y):
    axes = LinearGaussian(0, 0, 0, None, None, 0)
    return z @ jax.vmap(lambda f: f.log_prob(y, y), (axes,))(theta["line"])


def by_hand(v):
    top = jnp.max(v)
    return top + jnp.log(jnp.sum(jnp.exp(v - top)))


ACCEPTED = {
    "a mixture": lambda t, z, y: t["kind"].log_prob(z) + z @ jnp.maximum(t["count"].log_prob(y), elbo.LOG_ZERO),
    "two terms": lambda t, z, y: (t["kind"].log_prob(z), -0.5 * (z @ -t["normal"].log_prob(y))),
    "what is no family": lambda t, z, y: jnp.sin(t["free"]) @ z + z @ t["count"].log_prob(y),
    "fixed fields": lambda t, z, y: t["normal"].floor + z @ t["line"].log_prob(y, jnp.exp(t["line"].centre)),
    "shapes": lambda t, z, y: len(t["rows"].logits) * z @ t["count"].log_prob(y),
    "an exposure": lambda t, z, y: z @ t["count"].log_prob(y, offset=jnp.log(y) + t["free"][0]),
    "a posterior-free choice": lambda t, z, y: (
        t["count"].log_prob(y)[0] * (1 - z[0]) + z[0] * t["count"].log_prob(y)[1]
    ),
    "a difference": lambda t, z, y: t["count"].log_prob(y)[0] + z[0] * jnp.diff(t["count"].log_prob(y))[0],
    "rows by vmap": lambda t, z, y: jnp.sum(jax.vmap(lambda row, n: row.log_prob(n))(t["rows"], jnp.outer(z, z))),
    "rows by map": lambda t, z, y: jnp.sum(jax.lax.map(lambda row: row.log_prob(z), t["rows"])),
    "a row": lambda t, z, y: part(t["rows"], 1).log_prob(z),
    "a row that y tells": lambda t, z, y: part(t["rows"], y.astype(int)[0]).log_prob(z),
    "rows in another order": lambda t, z, y: z @ part(t["rows"], jnp.array([2, 0, 1])).log_prob(z),
    "regressions by vmap": regressions,
    "logaddexp": lambda t, z, y: jnp.logaddexp(*t["count"].log_prob(y)[:2]),
    "a chain summed out": lambda t, z, y: elbo.posteriors.ChainPosterior(
        z, jnp.zeros((K, K)), jnp.stack([t["count"].log_prob(y)] * 2), jnp.array(2)
    ).log_partition(),
    "logsumexp by hand": lambda t, z, y: by_hand(t["count"].log_prob(y)),
    "logsumexp with weights": lambda t, z, y: jax.nn.logsumexp(t["count"].log_prob(y), b=z),
    "densities": lambda t, z, y: jnp.log(z @ jnp.exp(t["count"].log_prob(y))),
    "where": lambda t, z, y: jnp.sum(jnp.where(y[0] > 0, t["count"].log_prob(y), 0.0)),
    "bounded": lambda t, z, y: z @ jnp.clip(t["normal"].log_prob(y), -1e6, 1e6),
    "jit and checkpoint": lambda t, z, y: jax.jit(jax.checkpoint(lambda t: z @ t["normal"].log_prob(y)))(t),
    "scan": scan,
    "a loop": loop,
    "cond": one_of_two,
    "stacked": stacked,
    "truncated": truncated,
    "a scale mixture": scale_mixture,
    "none of them": lambda t, z, y: z @ t["free"],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    require_taps(ACCEPTED[name], THETA, Z, Y)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """A family of two others, each with a part of the tap."""

    positive: Any
    count: Any
    tap: Any = None

    def log_prob(self, x):
        taps = (None, None) if self.tap is None else (self.tap[0], self.tap[1])
        positive, count = map(with_tap, (self.positive, self.count), taps)
        return positive.log_prob(jnp.log(x)) - jnp.sum(jnp.log(x)) + count.log_prob(x)

    def zero_statistics(self):
        return self.positive.zero_statistics(), self.count.zero_statistics()

    def maximize(self, statistics):
        return Pair(*(f.maximize(s) for f, s in zip((self.positive, self.count), statistics, strict=True)))

    def log_likelihood(self, statistics):
        return self.positive.log_likelihood(statistics[0]) + self.count.log_likelihood(statistics[1])

    def empty(self, statistics):
        return self.count.empty(statistics[1])


def test_families_in_a_family():
    theta = {"pair": Pair(THETA["normal"], THETA["count"])}
    assert require_taps(lambda t, z, y: z @ t["pair"].log_prob(y), theta, Z, Y)
    with pytest.raises(elbo.StructureError, match=r"reads theta\['pair'\] outside"):
        require_taps(lambda t, z, y: z @ t["pair"].count.log_prob(y), theta, Z, Y)


def rescaled(theta, z, y):
    return z @ jax.tree.map(lambda a: 2 * a, theta["count"]).log_prob(y)


def changed(name, field, change):
    return lambda t, z, y: jnp.sum(replace(t[name], **{field: change(getattr(t[name], field))}).log_prob(y))


def read_in_a_loop(theta, z, y):
    return jax.lax.fori_loop(0, 3, lambda i, total: total + theta["count"].log_rate[0, 0], z @ theta["free"])


def read_to_stop_a_loop(theta, z, y):
    return jax.lax.while_loop(lambda v: v < theta["count"].log_rate[0, 0], lambda v: v + 1, z @ theta["free"])


@jax.custom_jvp
def own_rule(x):
    return 2 * x


own_rule.defjvps(lambda t, ans, x: 3 * t)
with_own_rule = jax.custom_jvp(lambda family, y: family.log_prob(y))
with_own_rule.defjvp(lambda x, dx: jax.jvp(lambda family, y: family.log_prob(y), x, dx))
OUTSIDE = "reads theta['count'] outside of its log_prob"
CHANGED = "calls the log_prob of theta['count'] with `log_rate` changed"
REFUSED = {
    "by hand": (lambda t, z, y: z @ (y[0] * t["count"].log_rate - t["count"].rate())[:, 0], OUTSIDE),
    "a term": (lambda t, z, y: (z @ t["count"].log_prob(y), -jnp.sum(t["count"].log_rate ** 2)), OUTSIDE),
    "a censored value": (lambda t, z, y: z @ (t["count"].log_prob(y) - t["count"].rate()[:, 0]), OUTSIDE),
    "a coefficient": (lambda t, z, y: t["kind"].probabilities() @ t["count"].log_prob(y), "reads theta['kind']"),
    "stop_gradient": (lambda t, z, y: z @ jax.lax.stop_gradient(t["count"].rate())[:, 0], OUTSIDE),
    "a comparison": (lambda t, z, y: jnp.where(t["count"].rate()[0, 0] > 1, 0.0, 1.0) * z[0], OUTSIDE),
    "a branch": (lambda t, z, y: jax.lax.cond(t["count"].rate()[0, 0] > 1, lambda: z[0], lambda: z[1]), OUTSIDE),
    "an index": (lambda t, z, y: z[jnp.argmax(t["count"].log_rate[:, 0])], OUTSIDE),
    "a loop": (read_in_a_loop, OUTSIDE),
    "the end of a loop": (read_to_stop_a_loop, OUTSIDE),
    "a family built of it": (lambda t, z, y: z @ Poisson(t["count"].log_rate + 1).log_prob(y), OUTSIDE),
    "x": (lambda t, z, y: z @ t["normal"].log_prob(y - t["count"].rate()[0]), OUTSIDE),
    "its own x": (lambda t, z, y: z @ t["count"].log_prob(y, offset=t["count"].log_rate[0]), OUTSIDE),
    "an operation with a rule of its own": (
        lambda t, z, y: with_own_rule(t["count"], y) @ z,
        OUTSIDE,
    ),
    "a derivative": (lambda t, z, y: jnp.sum(jax.grad(lambda y: z @ t["normal"].log_prob(y))(y)), "theta['normal']"),
    "all fields and the tap changed": (rescaled, CHANGED),
    "a field shifted": (changed("count", "log_rate", lambda a: a + jnp.log(3.0)), CHANGED),
    "a field permuted": (changed("count", "log_rate", lambda a: a[::-1]), CHANGED),
    "a field tied": (changed("count", "log_rate", lambda a: jnp.broadcast_to(a[:1], a.shape)), CHANGED),
    "a field of a constant": (changed("count", "log_rate", jnp.zeros_like), CHANGED),
    "a row without its tap": (
        lambda t, z, y: replace(t["count"], log_rate=t["count"].log_rate[0]).log_prob(y),
        CHANGED,
    ),
    "a square": (lambda t, z, y: jnp.sum(t["count"].log_prob(y) ** 2), "takes integer_pow of the log_prob of theta"),
    "a product": (
        lambda t, z, y: t["count"].log_prob(y) @ t["normal"].log_prob(y),
        "takes dot_general of the log_prob",
    ),
    "a softmax": (lambda t, z, y: z @ jax.nn.log_softmax(t["count"].log_prob(y)), "the negative of a logsumexp"),
    "censored": (
        lambda t, z, y: z @ jnp.log1p(-jnp.exp(t["count"].log_prob(y))),
        "the negative of a logsumexp of the log_prob of theta['count']",
    ),
    "a stopped value": (lambda t, z, y: z @ jax.lax.stop_gradient(t["count"].log_prob(y)), "takes stop_gradient of"),
    "a value with a rule of its own": (
        lambda t, z, y: z @ own_rule(t["count"].log_prob(y)),
        "takes custom_jvp_call of",
    ),
    "a value as x": (lambda t, z, y: t["kind"].log_prob(t["count"].log_prob(y)), "takes a log_prob of the log_prob"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    log_joint, message = REFUSED[name]
    with pytest.raises(elbo.StructureError) as raised:
        require_taps(log_joint, THETA, Z, Y)
    assert message in str(raised.value) and "eg_step" in str(raised.value), raised.value
