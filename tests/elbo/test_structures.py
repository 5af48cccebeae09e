"""Every discrete posterior against the list of all z: values, draws, derivatives, padding, impossible data, dtypes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo import LOG_ZERO
from elbo.numerics import IMPOSSIBLE
from elbo.posteriors import AlignmentPosterior, ChainPosterior, prepared

from .enumeration import (
    derivatives,
    enumerate_values,
    flat,
    in_float32,
    potentials,
    stack,
    take,
    with_potentials,
)
from .structures import TABLE

DRAWS = 2000


def waves(arrays) -> list:
    return [jnp.cos(jnp.arange(1.0, 1 + a.size, dtype=a.dtype)).reshape(a.shape) for a in arrays]


def answers(q) -> dict:
    """What a posterior says of itself."""
    return {"ln Z": q.log_partition(), "mean": q.mean(), "entropy": q.entropy(), "mode": q.mode()}


def draws(row, q, other, values, keys) -> dict:
    """What it says besides, of all z and of another posterior."""
    kind = jax.tree.structure(jax.eval_shape(q.mode))
    said = {
        "kl": elbo.kl(q, other),
        "samples": jax.vmap(q.sample)(keys),
        "log_prob": jax.vmap(lambda z: q.log_prob(jax.tree.unflatten(kind, z)))(values.z),
        "more": row.more(prepared(q), keys[0]),
    }
    if values.found is not None:
        said |= {"best": q.best(), "indicators": jax.vmap(getattr(q, row.indicate))(values.found)}
    return said


def everything(row, q, other, values, likely, keys) -> dict:
    """All that a posterior says, and derivatives up to the third order; likely is a z."""
    theta, both = list(potentials(q).values()), prepared(q)
    along = waves(theta)

    def loss(theta):
        q_ = prepared(with_potentials(q, theta))
        squares = [jnp.sum(w * m**2) for w, m in zip(along, jax.tree.leaves(q_.mean()), strict=True)]
        z = jax.tree.unflatten(jax.tree.structure(q_.mean()), likely)
        return q_.log_partition() + 2 * q_.entropy() + 3 * q_.log_prob(z) + sum(squares)

    def log_z(theta):
        return with_potentials(q, theta).log_partition()

    gradient, covariance = jax.jvp(jax.grad(log_z), (theta,), (along,))
    (_, slopes), (slope, curvature) = jax.jvp(jax.value_and_grad(loss), (theta,), (along,))
    return draws(row, q, other, values, keys) | {
        "ln Z": (q.log_partition(), both.log_partition()),
        "mean": both.mean(),
        "entropy": both.entropy(),
        "mode": q.mode(),
        "gradient": gradient,
        "covariance": covariance,
        "slopes": slopes,
        "slope": slope,
        "curvature": curvature,
    }


def forbid(q, z):
    """The same posterior, which now forbids one part of z."""
    *rest, last = potentials(q).values()
    return with_potentials(q, [*rest, last.ravel().at[z[-1].argmax()].set(LOG_ZERO).reshape(last.shape)])


class Case:
    """A row of the table: data beside each other, what they say, and what is true of the possible ones."""

    def __init__(self, row, key):
        sound = [row.make(i, *size) for i, size in enumerate(row.sizes)]
        others = [row.make(100 + i, *size) for i, size in enumerate(row.sizes)]
        self.values = [row.values(q) for q in sound]
        self.values.append(self.values[-1])
        sound, others = [*sound, forbid(sound[-1], take(self.values[-1].z, 0))], [*others, others[-1]]
        self.row, self.sound, self.others = row, sound, others
        self.truths = [enumerate_values(q, v.z) for q, v in zip(sound, self.values, strict=True)]
        spoilt = [*row.impossible, *row.wrong]
        most = max(len(v.z[0]) for v in self.values)
        fill = lambda fill: lambda a: np.pad(a, [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=fill)
        every = [v._replace(found=jax.tree.map(fill(-1), v.found), z=jax.tree.map(fill(0), v.z)) for v in self.values]
        likely = [take(v.z, t.best) for v, t in zip(self.values, self.truths, strict=True)]
        widen = lambda items: stack([*items, *[items[-1]] * len(spoilt)])
        self.keys = jax.random.split(key, DRAWS)
        run = jax.jit(jax.vmap(lambda *a: everything(row, *a), (0, 0, 0, 0, None)))
        self.seen = jax.device_get(run(stack([*sound, *spoilt]), widen(others), widen(every), widen(likely), self.keys))

    def each(self):
        """Of each possible datum: the posterior, its values, what it says, and the truth."""
        for i, (q, values, truth) in enumerate(zip(self.sound, self.values, self.truths, strict=True)):
            yield q, values, take(self.seen, i), truth

    def spoilt(self):
        """What is said of each of the impossible data, and of each of those that hold no numbers."""
        first, middle = len(self.sound), len(self.sound) + len(self.row.impossible)
        ends = middle + len(self.row.wrong)
        return [take(self.seen, i) for i in range(first, middle)], [take(self.seen, i) for i in range(middle, ends)]


def same(seen, expected, atol):
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=atol, atol=atol)


def log_partition(case):
    for _, _, seen, truth in case.each():
        same(seen["ln Z"], [truth.log_partition] * 2, 1e-13)


def mean(case):
    for _, _, seen, truth in case.each():
        same([seen["mean"], seen["gradient"]], [truth.mean] * 2, 1e-13)


def entropy(case):
    for _, _, seen, truth in case.each():
        same(seen["entropy"], truth.entropy, 1e-12)


def kl(case):
    for (_, values, seen, truth), other in zip(case.each(), case.others, strict=True):
        p, r = truth.p, enumerate_values(other, values.z).p
        same(seen["kl"], np.sum(p * np.log(np.where(p > 0, p, 1) / r)), 1e-12)


def log_prob(case):
    """Of every z; what is impossible has none."""
    for _, _, seen, truth in case.each():
        log_p, possible = seen["log_prob"][: len(truth.p)], truth.p > 0
        same(log_p[possible], np.log(truth.p[possible]), 1e-11)
        assert (log_p[~possible] <= IMPOSSIBLE).all()
        same(np.exp(log_p).sum(), 1, 1e-12)


def best(case):
    for _, values, seen, truth in case.each():
        (top,) = np.flatnonzero((flat(values.z, len(truth.p)) == flat(seen["mode"])).all(1))[:1]
        same(truth.p[top], truth.p.max(), 1e-12)
        if values.found is None:
            continue
        found, score = seen["best"]
        (place,) = np.flatnonzero((flat(values.found, len(truth.p)) == flat(found)).all(1))
        np.testing.assert_array_equal(flat(take(values.z, place)), flat(seen["mode"]))
        same(score, truth.score, 1e-12)
        same(truth.p[place], truth.p.max(), 1e-12)


def indicators(case):
    for _, values, seen, truth in case.each():
        if values.found is not None:
            same([a[: len(truth.p)] for a in jax.tree.leaves(seen["indicators"])], values.z, 0)


def samples(case):
    """Each is a possible z, and they and their parts come at their frequencies."""
    for _, values, seen, truth in case.each():
        rows, place = np.unique(flat(values.z, len(truth.p)), axis=0, return_inverse=True)
        p = np.bincount(place.ravel(), truth.p)  # indicators of counts may be those of several z
        index = {row.tobytes(): i for i, row in enumerate(rows)}
        drawn = flat(seen["samples"], DRAWS)
        counts = np.bincount([index[row.tobytes()] for row in drawn], minlength=len(p))
        assert not counts[p == 0].any()
        slack = lambda variance: 5 * np.sqrt(variance / DRAWS) + 5 / DRAWS
        assert (np.abs(counts / DRAWS - p) <= slack(p * (1 - p))).all()
        average = flat(truth.mean)
        assert (np.abs(drawn.mean(0) - average) <= slack(p @ (rows - average) ** 2)).all()


def derivatives_of_each_order(case):
    for q, values, seen, _ in case.each():
        expected = derivatives(q, values.z, flat(waves(potentials(q).values())))
        for name, value in expected.items():
            np.testing.assert_allclose(flat(seen[name]), np.atleast_1d(value), atol=1e-11, err_msg=name)


def padding(case):
    """A datum alone, without its padding: the same values and the same draws."""
    last = len(case.row.sizes) - 1
    q, seen = case.sound[last], take(case.seen, last)
    bare = case.row.bare(q)
    assert not case.row.frames or flat(potentials(bare)).size < flat(potentials(q)).size
    alone = lambda q, keys: (q.log_partition(), q.mean(), q.mode(), jax.vmap(q.sample)(keys))
    value, *z = jax.jit(alone)(bare, case.keys[:8])
    same(seen["ln Z"][0], value, 1e-13)
    beside = seen["mean"], seen["mode"], take(seen["samples"], slice(8))
    for a, b in zip(jax.tree.leaves(beside), jax.tree.leaves(z), strict=True):
        np.testing.assert_allclose(a[tuple(slice(n) for n in b.shape)], b, rtol=0, atol=1e-13)
        assert np.sum(np.abs(a)) == pytest.approx(np.sum(np.abs(b)))


def impossible(case):
    """All log probabilities are `LOG_ZERO`, all probabilities and derivatives 0, all lists −1."""
    for seen in case.spoilt()[0]:
        probabilities, lists = seen["more"]
        zeros = [seen[name] for name in ("mean", "mode", "samples", "gradient", "covariance", "slopes", "curvature")]
        assert not flat([zeros, probabilities, seen["slope"], seen["kl"]]).any()
        assert (flat([seen["ln Z"], seen["entropy"]]) == LOG_ZERO).all()
        assert (seen["log_prob"] <= IMPOSSIBLE).all()
        found, score = seen["best"] if "best" in seen else ((), LOG_ZERO)
        assert score == LOG_ZERO and all((a == -1).all() for a in jax.tree.leaves([found, lists]))


def no_numbers(case):
    """NaN wherever a datum of numbers would have a share, −1 in lists."""
    reached = flat(case.truths[-2].mean) > 0
    for seen in case.spoilt()[1]:
        assert np.isnan(flat([seen["ln Z"], seen["entropy"], seen["log_prob"]])).all()
        for name in ("mode", "samples", "mean"):
            nan = np.isnan(flat(take(seen[name], 0) if name == "samples" else seen[name]))[reached]
            assert nan.all() if case.row.nan_everywhere else nan.any()
        found, score = seen["best"] if "best" in seen else ((), np.nan)
        assert np.isnan(score) and all((a == -1).all() for a in jax.tree.leaves([found, seen["more"][1]]))


def narrow_lengths(case):
    q = case.sound[-2]
    if not case.row.frames:
        return
    narrow = {n: getattr(q, n).astype(jnp.uint8) for n in ("length", "count") if hasattr(q, n)}
    assert jax.eval_shape(answers, replace(q, **narrow)) == jax.eval_shape(answers, q)
    with pytest.raises(ValueError, match=r"length: got 9, expected . to \d"):
        replace(q, length=jnp.array(9, jnp.uint8)).mean()


PROPERTIES = [log_partition, mean, entropy, kl, log_prob, best, indicators, samples, derivatives_of_each_order]
PROPERTIES += [padding, impossible, no_numbers, narrow_lengths]


@pytest.mark.parametrize("name", TABLE)
def test_equals_enumeration(x64, key, subtests, name):
    """One program for all properties: most of the time goes into compiling it."""
    case = Case(TABLE[name](), key)
    for check in PROPERTIES:
        with subtests.test(check.__name__):
            check(case)


def check_answers(seen, q, values, tolerance):
    truth = enumerate_values(q, values.z)
    same([seen["ln Z"], seen["mean"]], [truth.log_partition, truth.mean], tolerance)
    same(seen["entropy"], truth.entropy, 4 * tolerance)
    same(seen["mode"], take(values.z, truth.best), 0)


@pytest.mark.parametrize("name", TABLE)
def test_smallest(x64, name):
    row = TABLE[name]()
    for q in row.smallest:
        check_answers(jax.jit(answers)(q), q, row.values(q), 1e-13)


@pytest.mark.parametrize("name", TABLE)
def test_float32_in_a_grid(x64, key, name):
    """Under vmap of vmap, by one program whatever the lengths; float32 stays float32."""
    row, traces = TABLE[name](), []

    @jax.jit
    def run(grid):
        traces.append(1)
        return jax.vmap(jax.vmap(answers))(grid)

    data = [in_float32(row.make(i, *size)) for i, size in enumerate(row.sizes)]
    for order in (data, data[::-1]):
        seen = jax.device_get(run(stack([stack(order), stack(order[1:] + order[:1])])))
        for i, q in enumerate(order):
            check_answers(take(take(seen, 0), i), q, row.values(q), 2e-6)
            same(take(take(seen, 1), i - 1), take(take(seen, 0), i), 2e-6)
    assert len(traces) == 1
    q, values = data[-1], row.values(data[-1])
    values = values._replace(z=[a.astype(np.float32) for a in values.z])
    said = jax.eval_shape(lambda q, *rest: draws(row, q, q, *rest), q, values, jax.random.split(key, 2))
    assert {a.dtype for a in jax.tree.leaves([seen, said])} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}


def test_states_of_narrow_integers():
    """256 states of a uint8: the padding, −1, is not the last of them."""
    states, count = jnp.zeros((3, 256)), jnp.array(2)
    q = ChainPosterior(states[0], jnp.zeros((256, 256)), states, count)
    assert not q.path(jnp.array([1, 2, 3], jnp.uint8)).states[2].any()
    q = AlignmentPosterior(jnp.zeros((3, 257)), jnp.zeros(128, bool), count, jnp.array(128))
    assert not q.path(jnp.array([1, 2, 3], jnp.uint8))[2].any()
