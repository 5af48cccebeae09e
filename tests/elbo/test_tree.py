"""Trees: every operation against the list of all parses, padding, derivatives, impossible sentences, rescaling."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import elbo
from elbo import LOG_ZERO, Padded, Parse, StructureError, Tree
from elbo.posteriors import tree_chart, tree_log, tree_outside, tree_passes, tree_scaled
from elbo.posteriors.tree_parse import shift

from .trees import enumerated, listed, padded_spans, random_tree, stack

DRAWS = 500


def close(seen, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def everything(q, other, key):
    best, score = q.best()
    return {
        "log_partition": q.log_partition(),
        "mean": q.mean(),
        "spans": q.spans(),
        "gradient": jax.grad(lambda q: q.log_partition(), allow_int=True)(q),
        "entropy": q.entropy(),
        "kl": elbo.kl(q, other),
        "best": best,
        "score": score,
        "mode": q.mode(),
        "consensus": q.consensus(),
        "samples": jax.vmap(q.sample)(jax.random.split(key, DRAWS)),
        "log": tree_log.smooth(*q._clean()),
        "best P": q.log_prob(q.parse(best)),
    }


def same_spans(seen, expected, frames):
    for a, b in zip(seen, padded_spans(expected, frames), strict=True):
        assert np.asarray(a).tolist() == b.tolist()


def test_equals_enumeration(x64, key):
    frames, sizes, lengths = 4, (2, 2), (1, 2, 3, 4)
    # lengths side by side, and NaN in the padding
    trees = [random_tree(n, frames, *sizes, length=n, single=True) for n in lengths]
    others = [random_tree(9 + n, frames, *sizes, length=n, single=True) for n in lengths]
    seen = jax.jit(jax.vmap(everything, (0, 0, None)))(stack(trees), stack(others), key)
    log_prob = jax.jit(jax.vmap(lambda q, spans: q.log_prob(q.parse(spans)), (None, 0)))
    for i, (q, other) in enumerate(zip(trees, others, strict=True)):
        one, truth, length = jax.tree.map(lambda a, i=i: a[i], seen), enumerated(q), lengths[i]
        np.testing.assert_allclose(one["log_partition"], truth["log_partition"], rtol=1e-13)
        close(one["mean"], truth["mean"], atol=1e-14)
        close(one["spans"], truth["spans"], atol=1e-14)
        close(one["log"], (truth["log_partition"], Parse(*truth["mean"]), truth["spans"]), atol=1e-13)
        gradient = one["gradient"]
        close((gradient.root, gradient.rules, gradient.tags), truth["mean"], atol=1e-14)
        np.testing.assert_allclose(one["entropy"], truth["entropy"], atol=1e-13)
        p = truth["p"]
        np.testing.assert_allclose(one["kl"], p @ np.log(p / enumerated(other)["p"]), atol=1e-13)
        same_spans(one["best"], truth["best"], frames)
        np.testing.assert_allclose([one["score"], one["best P"]], [truth["score"], np.log(p.max())], rtol=1e-12)
        close(one["mode"], q.parse(padded_spans(truth["best"], frames)))
        every = [padded_spans(parse, frames) for parse in truth["parses"]]
        every = jax.tree.map(lambda *a: jnp.stack(a), *every)
        np.testing.assert_allclose(jnp.exp(log_prob(q, every)), p, rtol=1e-11)
        consensus = one["consensus"]
        spans = {(int(a), int(b)) for a, b in zip(consensus.start, consensus.end, strict=True) if a >= 0}
        assert spans == truth["consensus"]
        check_consensus(consensus, truth, length, sizes[0])
        # every draw is a parse, and its parts have the right frequencies
        draws = jax.vmap(q.log_prob)(one["samples"])
        assert np.abs(np.asarray(draws)[:, None] - np.log(p)).min(1).max() < 1e-9
        for drawn, mean in zip(one["samples"], truth["mean"], strict=True):
            drawn = np.asarray(drawn)
            error = 5 * drawn.std(0) / np.sqrt(DRAWS) + 5 / DRAWS
            assert (np.abs(drawn.mean(0) - mean) <= error).all()


def check_consensus(consensus, truth, length, size):
    """Labels are the most probable ones, of spans and of words, in the children of each span as well."""
    tags = truth["mean"][2].argmax(1)[:length]
    assert consensus.tags[:length].tolist() == tags.tolist()
    label = lambda a, b: size + tags[a] if b - a == 1 else truth["spans"][a, b - a].argmax()
    ends = {int(a): [] for a in consensus.start if a >= 0}
    for a, b in zip(consensus.start.tolist(), consensus.end.tolist(), strict=True):
        if a >= 0:
            ends[a].append(b)
    for a, b, symbol, left, right in zip(*(x.tolist() for x in consensus[:5]), strict=True):
        if a < 0:
            continue
        middle = max([e for e in ends[a] if e < b], default=a + 1)
        assert (symbol, left, right) == (label(a, b), label(a, middle), label(middle, b))


def test_counts_of_one_symbol_are_catalan_numbers():
    """n words and one nonterminal, all weights 1: C(n-1) binary trees."""
    q = Tree(jnp.zeros(1), jnp.zeros((1, 2, 2)), jnp.zeros((30, 1)), jnp.array(30))
    lengths = jnp.arange(2, 31)
    seen = jax.vmap(lambda n: Tree(q.root, q.rules, q.tags, n).prepared())(lengths)
    n = np.arange(2, 31) - 1
    expected = [math.log(math.comb(2 * k, k) // (k + 1)) for k in n.tolist()]
    np.testing.assert_allclose(seen.log_partition(), expected, rtol=3e-6)
    mean = jax.vmap(lambda q: q.mean().rules)(seen)[:, 0]
    np.testing.assert_allclose(mean.sum((1, 2)), n, rtol=1e-5)
    # words are children of two words in 1, of one in 2, of none in 0: 2 pp + pn + np = n + 1
    np.testing.assert_allclose(2 * mean[:, 1, 1] + mean[:, 0, 1] + mean[:, 1, 0], n + 1, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_smallest(x64, frames):
    q = random_tree(1, frames, 1, 1, single=True)
    truth = enumerated(q)
    np.testing.assert_allclose(q.log_partition(), truth["log_partition"], rtol=1e-13)
    close(q.mean(), truth["mean"], atol=1e-14)
    np.testing.assert_allclose(q.entropy(), truth["entropy"], atol=1e-13)
    same_spans(q.best()[0], truth["best"], frames)
    close(q.sample(jax.random.key(0)).tags, q.mode().tags)
    q.consensus()


def loss(q):
    """Something with every kind of derivative."""
    mean = q.mean()
    weights = jnp.cos(jnp.arange(1.0, 1 + mean.rules.size, dtype=mean.rules.dtype)).reshape(mean.rules.shape)
    return q.log_partition() + 2 * q.entropy() + jnp.sum(weights * mean.rules**2) + jnp.sum(mean.tags**3)


def test_padding_changes_nothing(x64, key):
    long = random_tree(2, 9, 3, 2, length=5)
    short = Tree(long.root, long.rules, long.tags[:5], long.length)

    @jax.jit
    def values(q):
        g = jax.grad(lambda q: q.log_partition(), allow_int=True)(q)
        spans, score = q.best()
        return q.log_partition(), q.entropy(), score, g.root, g.rules, g.tags, q.sample(key), spans, q.consensus()

    for a, b in zip(jax.tree.leaves(values(long)), jax.tree.leaves(values(short)), strict=True):
        if a.shape != b.shape:
            a, rest = np.split(a, [len(b)])
            assert np.isin(rest, [0.0, -1]).all()
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_derivatives_of_second_order(x64):
    q = random_tree(3, 3, 2, 1)
    p = (q.root, q.rules, q.tags)
    every = listed(3, 2, 1)
    z = jax.vmap(q.parse)(jax.tree.map(lambda *a: jnp.stack(a), *[padded_spans(s, 3) for s in every]))

    def theirs(p):
        scores = lambda p: sum(jnp.tensordot(a, b, b.ndim) for a, b in zip(z, p, strict=True))
        log_z = jax.nn.logsumexp(scores(p))
        log_p = scores(p) - log_z
        mean = jax.grad(lambda p: jax.nn.logsumexp(scores(p)))(p)
        weights = jnp.cos(jnp.arange(1.0, 1 + mean[1].size)).reshape(mean[1].shape)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p)
        return log_z + 2 * entropy + jnp.sum(weights * mean[1] ** 2) + jnp.sum(mean[2] ** 3)

    ours = lambda p: loss(Tree(*p, q.length))
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(1.0, 1 + a.size)).reshape(a.shape), p)
    every = lambda f: jax.jit(lambda p: (f(p), jax.grad(f)(p), jax.jvp(f, (p,), (direction,)), jax.hessian(f)(p)))
    close(every(ours)(p), every(theirs)(p), atol=1e-11)
    up, down = (jax.tree.map(lambda a, w, h=h: a + h * w, p, direction) for h in (1e-5, -1e-5))
    value = jax.jit(ours)
    np.testing.assert_allclose((value(up) - value(down)) / 2e-5, jax.jvp(theirs, (p,), (direction,))[1], rtol=1e-7)


def test_impossible(x64):
    """Three ways to have no parse, beside sentences that have one; and a one-word sentence."""
    q = random_tree(5, 4, 2, 2)
    trees = [
        q,
        Tree(jnp.full(2, -jnp.inf), q.rules, q.tags, q.length),
        Tree(q.root, q.rules.at[:, :2].set(LOG_ZERO).at[:, :, :2].set(LOG_ZERO), q.tags, q.length),
        Tree(q.root, q.rules, q.tags.at[2].set(-jnp.inf), q.length),
        Tree(q.root, q.rules, q.tags, jnp.array(1, jnp.int32)),
        q,
    ]

    @jax.jit
    @jax.vmap
    def f(q):
        gradient = jax.grad(loss, allow_int=True)(q)
        spans, score = q.best()
        scalars = q.log_partition(), q.entropy(), q.log_prob(q.mode()), score
        return scalars, (q.mean(), q.spans(), gradient.root, gradient.rules, gradient.tags), spans, q.consensus()

    scalars, vectors, *parses = f(stack(trees))
    truth = enumerated(q)
    for value in scalars:
        assert (value[1:5] <= 1e-6 * LOG_ZERO).all()
        assert value[0] == value[5] and np.isfinite(value[0])
    assert (scalars[0][1:5] == LOG_ZERO).all()
    for value in jax.tree.leaves(vectors):
        assert not value[1:5].any() and np.isfinite(value).all()
    for value in jax.tree.leaves(parses):
        assert (value[1:5] == -1).all()
    np.testing.assert_allclose(scalars[0][0], truth["log_partition"], rtol=1e-12)
    close(jax.tree.map(lambda a: a[0], vectors[0]), truth["mean"], atol=1e-13)


def test_nan_does_not_pass_silently():
    q = random_tree(6, 4, 2, 2, length=3)
    f = jax.jit(lambda q: (q.log_partition(), q.entropy(), q.mean().rules[0, 0, 2]))
    assert all(jnp.isfinite(v) for v in f(q))
    for bad in (
        Tree(q.root, q.rules, q.tags.at[1, 1].set(jnp.nan), q.length),
        Tree(q.root, q.rules.at[1, 2, 0].set(jnp.nan), q.tags, q.length),
    ):
        assert all(jnp.isnan(v) for v in f(bad))
    # a length that only a run can see
    for length in (0, 5):
        assert all(jnp.isnan(v) for v in f(Tree(q.root, q.rules, q.tags, jnp.array(length, jnp.int32)))[:2])


def test_one_trace_for_all_lengths_and_float32_under_x64(x64, key):
    traces = []

    @jax.jit
    def f(q):
        traces.append(1)
        return q.log_partition(), q.mean(), q.spans(), q.entropy(), q.best(), q.consensus(), q.sample(key)

    for length in (2, 3, 4):
        q = random_tree(0, 4, 2, 1, length=length)
        out = f(jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, q))
    assert len(traces) == 1
    assert all(a.dtype in (jnp.float32, jnp.int32) for a in jax.tree.leaves(out))


# --- rescaling: what falls far behind and later wins, or is the only way to the end


SIZES = 6, 3, 2  # words, nonterminals, preterminals


def finisher(rng, gap):
    """A nonterminal that is behind by the gap in every span, and is the only one that the root accepts."""
    frames, size, tags = SIZES
    rules = rng.normal(size=(size, size + tags, size + tags))
    rules[-1] -= gap
    root = np.array([LOG_ZERO] * (size - 1) + [0.0])
    return root, rules, rng.normal(size=(frames, tags))


def reversing(rng, gap):
    """Two grammars that share no symbol; now one is ahead by the gap, now the other."""
    frames, size, tags = SIZES
    block = np.concatenate([np.arange(size) % 2, np.arange(tags) % 2])
    same = (block[:size, None, None] == block[None, :, None]) & (block[None, :, None] == block)
    rules = np.where(same, rng.normal(size=same.shape), LOG_ZERO)
    lead = gap * rng.choice([-1, 1, 2.5, -2.5], size=frames)
    return rng.normal(size=size), rules, rng.normal(size=(frames, tags)) + np.outer(lead, np.arange(tags) % 2)


def hard_zeros(rng, gap):
    """Zeros in every place; often no parse is left."""
    frames, size, tags = SIZES
    draw = lambda share, *shape: np.where(rng.random(shape) < share, LOG_ZERO, gap / 10 * rng.normal(size=shape))
    return draw(0.3, size), draw(0.7, size, size + tags, size + tags), draw(0.3, frames, tags)


def rough(rng, gap):
    """Everything is possible, hardly anything is probable."""
    frames, size, tags = SIZES
    draw = lambda *shape: -gap * rng.random(shape) ** 3
    return draw(size), draw(size, size + tags, size + tags), draw(frames, tags)


KINDS = [finisher, reversing, hard_zeros, rough]


def batch(kind, seed, gap, dtype, count=4):
    rng = np.random.default_rng(seed)
    trees = [kind(rng, gap) for _ in range(count)]
    arrays = (jnp.asarray(np.stack(a), dtype) for a in zip(*trees, strict=True))
    return Tree(*arrays, jnp.full(count, SIZES[0], jnp.int32))


def cut(found, right):
    """The root over nonterminals only."""
    log_z, marginals, spans = found
    return (log_z, marginals._replace(root=marginals.root[: SIZES[1]]), spans), right


@jax.jit
@jax.vmap
def passes(q):
    p, n = q._clean()
    return {
        "value": tree_passes.log_partition(p, n),
        "smooth": tree_passes.smooth(p, n),
        "log": tree_log.smooth(p, n),
        "scaled": cut(*tree_outside.smooth(shift(p, n), n)),
        "scaled value": tree_scaled.log_partition(shift(p, n), n),
    }


def numpy_inside(root, rules, tags) -> float:
    """ln Z in float64, one span after the other; ln 0 is −∞ here."""
    size, frames = len(rules), len(tags)
    root, rules, tags = (
        np.where(a <= 1e-6 * LOG_ZERO, -np.inf, np.asarray(a, np.float64)) for a in (root, rules, tags)
    )
    chart = np.full((frames, frames + 1, rules.shape[1]), -np.inf)
    chart[:, 1, size:] = tags
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = lambda x: np.logaddexp.reduce(x.ravel())
        for width in range(2, frames + 1):
            for i in range(frames - width + 1):
                pairs = [chart[i, k][:, None] + chart[i + k, width - k] for k in range(1, width)]
                pairs = np.logaddexp.reduce(np.stack(pairs), axis=0)
                chart[i, width, :size] = [lse(pairs + rule) for rule in rules]
        return lse(root + chart[0, frames, :size])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(seed=st.integers(0, 10**6), gap=st.sampled_from([0.1, 3.0, 30.0, 60.0, 100.0, 200.0, 800.0]))
@example(seed=0, gap=200.0)
def test_rescaling_is_right_or_says_so(x64, kind, dtype, seed, gap):
    q = batch(kind, seed, gap, dtype)
    seen = passes(q)
    eps = float(jnp.finfo(dtype).eps)
    for i in range(len(q.length)):
        one = jax.tree.map(lambda a, i=i: a[i], seen)
        parts = [np.asarray(a[i]) for a in (q.root, q.rules, q.tags)]
        log_z = numpy_inside(*parts)
        # a parse has 12 potentials, sums of which are rounded where they are as large as all of them together
        largest = max(np.abs(a[a > 1e-6 * LOG_ZERO]).max(initial=1) for a in parts)
        error = 100 * eps * 12 * largest
        if log_z == -np.inf:
            assert one["value"] == one["smooth"][0] == one["log"][0] == dtype(LOG_ZERO)
            assert not any(a.any() for a in jax.tree.leaves(one["smooth"][1:]))
            assert not one["scaled"][1] and not one["scaled value"][1]
            continue
        for value in (one["value"], one["smooth"][0], one["log"][0]):
            np.testing.assert_allclose(value, log_z, atol=error)
        close(one["smooth"][1:], one["log"][1:], atol=min(error, 0.02))
        # each word has one tag, each sentence one root and one rule less than words
        _, marginals, _ = one["smooth"]
        sums = [marginals.root.sum(), marginals.rules.sum() / 5, *marginals.tags.sum(1)]
        np.testing.assert_allclose(sums, 1, atol=min(error, 0.02))
        if one["scaled"][1]:
            np.testing.assert_allclose(one["scaled"][0][0], log_z, atol=error)
            close(one["scaled"][0][1:], one["log"][1:], atol=min(error, 0.02))
        if one["scaled value"][1]:
            np.testing.assert_allclose(one["scaled value"][0], log_z, atol=error)


def test_rescaling_serves_ordinary_grammars_and_refuses_lost_ones():
    """The bound is neither always small nor always large."""
    right = lambda kind, gap: jax.tree.map(np.asarray, passes(batch(kind, 0, gap, jnp.float32)))
    ordinary, lost = right(rough, 3.0), right(finisher, 200.0)
    assert ordinary["scaled"][1].all() and ordinary["scaled value"][1].all()
    assert not lost["scaled"][1].any() and not lost["scaled value"][1].any()
    # without hard zeros in the way the outside weights prove what the inside pass cannot
    zeros = right(hard_zeros, 3.0)
    assert (zeros["scaled"][1] & ~zeros["scaled value"][1]).any()


def test_float32_keeps_its_digits_in_a_long_sentence():
    q = random_tree(7, 16, 4, 3, spread=2.0)
    f = jax.jit(lambda q: (q.log_partition(), q.mean()))
    value, mean = f(q)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), q)
        exact, marginals = f(Tree(double.root, double.rules, double.tags, q.length))
    assert value.dtype == jnp.float32 and exact.dtype == jnp.float64
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    close(mean, jax.tree.map(np.asarray, marginals), atol=3e-5)


def test_the_lost_one_of_a_batch_is_the_only_one_that_goes_slowly(x64):
    """Under vmap of vmap there is a branch for the batch, and one for each of its data."""
    lost = jax.tree.map(lambda a: a[0], batch(finisher, 0, 900.0, float))
    trees = stack([*(random_tree(i, *SIZES) for i in range(3)), lost])
    grid = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), trees)
    compiled = jax.jit(jax.vmap(jax.vmap(lambda q: (q.log_partition(), q.mean())))).lower(grid).compile()
    assert " conditional(" in compiled.as_text()
    value, mean = jax.tree.map(lambda a: a.reshape(4, *a.shape[2:]), compiled(grid))
    exact, marginals, _ = jax.vmap(lambda q: tree_log.smooth(*q._clean()))(trees)
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    close(mean, marginals, atol=1e-11)


@pytest.mark.parametrize("frames", [2, 3, 4, 5, 7, 12, 41])
@pytest.mark.parametrize("parts", [2, 4])
def test_ranges_of_widths_hold_every_width_once(frames, parts):
    widths = [w for a, b in tree_chart.segments(frames, parts) for w in range(a, b + 1)]
    assert widths == list(range(3, frames + 1))


def test_structure():
    rng = np.random.default_rng(0)
    root, rules, tags = (jnp.asarray(rng.normal(size=s)) for s in ((2,), (2, 5, 5), (4, 3)))
    y = Padded(tags, jnp.array(3))

    def log_joint(z, y=None):
        return z.root @ root + jnp.vdot(z.rules, rules) + jnp.vdot(z.tags, tags)

    q = elbo.tree(2, 3).posterior(log_joint, y)
    close((q.root, q.rules, q.tags), (root, rules, tags), atol=1e-6)
    assert int(q.length) == 3
    assert elbo.tree(2, 3, single=True).posterior(lambda z: jnp.sum(z.root), y).root.shape == (5,)
    with pytest.raises(StructureError, match="not affine"):
        elbo.tree(2, 3).posterior(lambda z: jnp.sum(z.tags**2), y)
    with pytest.raises(ValueError, match="y: got None"):
        elbo.tree(2, 3).posterior(log_joint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(root=jnp.zeros(4)), r"expected \[N\] or \[S\]"),
        (dict(rules=jnp.zeros((2, 4, 5))), "root, rules, tags: got shapes"),
        (dict(tags=jnp.zeros((4, 3), int)), "expected floating-point"),
        (dict(length=jnp.array(2.0)), "expected an int scalar"),
        (dict(length=jnp.array(5)), "got 5, expected 1 to 4"),
        (dict(length=jnp.array(0)), "drop empty sentences"),
    ],
)
def test_mistakes(change, message):
    parts = dict(root=jnp.zeros(2), rules=jnp.zeros((2, 5, 5)), tags=jnp.zeros((4, 3)), length=jnp.array(4))
    with pytest.raises(ValueError, match=message):
        Tree(**{**parts, **change}).log_partition()
    with pytest.raises(ValueError, match="preterminals: got 0"):
        elbo.tree(1, 0)
