"""Trees: spans, consensus, rescaling and the structure; the rest is in `test_structures.py`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import elbo
from benchmarks.peers import reference_tree
from elbo import LOG_ZERO, Padded, StructureError
from elbo.numerics import IMPOSSIBLE
from elbo.posteriors import TreePosterior
from elbo.posteriors.tree import charts as tree_chart
from elbo.posteriors.tree import inside_outside
from elbo.posteriors.tree import log_space as tree_log
from elbo.posteriors.tree import passes as tree_passes
from elbo.posteriors.tree.parse import shift

from .enumeration import enumerate_values, stack, take
from .trees import (
    SIZES,
    finisher,
    hard_zeros,
    nodes,
    random_tree,
    reversing,
    rough,
    shapes,
    values,
)


def close(seen, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_spans_and_consensus(x64):
    frames, sizes = 4, (2, 2)
    trees = [random_tree(n, frames, *sizes, length=n, single=True) for n in (1, 2, 3, 4)]
    every, found = jax.device_get(jax.jit(jax.vmap(lambda q: (q.spans(), q.consensus())))(stack(trees)))
    for i, q in enumerate(trees):
        (parses, z), length = values(q), int(q.length)
        truth, spans = enumerate_values(q, z), np.zeros((frames, frames + 1, sizes[0]))
        for j, p in enumerate(truth.p):
            start, end, label = (a[j][: length - 1] for a in parses[:3])
            np.add.at(spans, (start, end - start, label), p)
        np.testing.assert_allclose(every[i], spans, atol=1e-14)
        gains = [sum(spans[a, b - a].max() for a, b, *_ in nodes(shape)) for shape in shapes(0, length)]
        risk = {(a, b) for a, b, *_ in nodes(shapes(0, length)[int(np.argmax(gains))])}
        consensus = take(found, i)
        assert {(int(a), int(b)) for a, b in zip(consensus.start, consensus.end, strict=True) if a >= 0} == risk
        check_consensus(consensus, truth.mean[2].argmax(1)[:length], spans, sizes[0])


def q_arrays(q):
    return q.root, q.rules, q.tags


def check_consensus(consensus, tags, spans, size):
    """Labels are the most probable ones, of spans and of words, in the children of each span as well."""
    assert consensus.tags[: len(tags)].tolist() == tags.tolist()
    label = lambda a, b: size + tags[a] if b - a == 1 else spans[a, b - a].argmax()
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
    root, rules, tags = jnp.zeros(1), jnp.zeros((1, 2, 2)), jnp.zeros((15, 1))
    lengths = jnp.arange(2, 16)
    seen = jax.jit(jax.vmap(lambda n: TreePosterior(root, rules, tags, n).prepared().smoothed))(lengths)
    n = np.arange(2, 16) - 1
    expected = [math.log(math.comb(2 * k, k) // (k + 1)) for k in n.tolist()]
    np.testing.assert_allclose(seen[0], expected, rtol=3e-6, atol=1e-6)
    mean = seen[1].rules[:, 0]
    np.testing.assert_allclose(mean.sum((1, 2)), n, rtol=1e-5)
    # words are children of two words in 1, of one in 2, of none in 0: 2 pp + pn + np = n + 1
    np.testing.assert_allclose(2 * mean[:, 1, 1] + mean[:, 0, 1] + mean[:, 1, 0], n + 1, rtol=1e-5)


# --- rescaling: what falls far behind and later wins, or is the only way to the end


KINDS = [finisher, reversing, hard_zeros, rough]


def batch(kind, seed, gap, dtype, count=4):
    rng = np.random.default_rng(seed)
    trees = [kind(rng, gap) for _ in range(count)]
    arrays = (jnp.asarray(np.stack(a), dtype) for a in zip(*trees, strict=True))
    return TreePosterior(*arrays, jnp.full(count, SIZES[0], jnp.int32))


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
        "scaled": cut(*inside_outside.smooth(shift(p, n), n)),
        "scaled value": inside_outside.log_partition(shift(p, n), n),
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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(seed=st.integers(0, 10**6), gap=st.sampled_from([0.1, 3.0, 30.0, 60.0, 100.0, 200.0, 800.0]))
@example(seed=0, gap=200.0)
def test_rescaling_is_right_or_says_so(kind, seed, gap):
    dtype = jnp.float32
    q = batch(kind, seed, gap, dtype)
    flat = lambda a: jnp.where(a <= IMPOSSIBLE, LOG_ZERO, 0).astype(dtype)
    nowhere = passes(TreePosterior(flat(q.root), flat(q.rules), flat(q.tags), q.length))["log"][1:]
    q, seen, nowhere = jax.device_get((q, passes(q), jax.tree.map(lambda a: a == 0, nowhere)))
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
            assert not one["scaled"][1] or one["scaled"][0][0] == dtype(LOG_ZERO)
            assert not one["scaled value"][1] or one["scaled value"][0] == dtype(LOG_ZERO)
            continue
        # what no parse holds has no share, not even a small one, and rounding makes none larger than 1
        for a, never in zip(jax.tree.leaves(one["smooth"][1:]), jax.tree.leaves(nowhere), strict=True):
            assert not a[never[i]].any() and (a >= 0).all()
        _, marginals, spans = one["smooth"]
        assert max(a.max() for a in (marginals.root, marginals.tags, spans)) <= 1
        for value in (one["value"], one["smooth"][0], one["log"][0]):
            np.testing.assert_allclose(value, log_z, atol=error)
        close(one["smooth"][1:], one["log"][1:], atol=min(error, 0.02))
        # each word has one tag, each sentence one root and one rule less than words
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
    """Against the benchmarks' judge; several ranges of widths."""
    q = random_tree(7, 27, 4, 3, spread=2.0)
    assert len(tree_chart.segments(27)) == 4
    seen = jax.jit(lambda q: (q.log_partition(), q.mean()))(q.prepared())
    exact = reference_tree.inside_outside(*(np.asarray(a) for a in q_arrays(q)))
    np.testing.assert_allclose(seen[0], exact[0], rtol=1e-6)
    close(seen[1], exact[1], atol=3e-5)


def test_the_lost_one_of_a_batch_is_the_only_one_that_goes_slowly(x64):
    """Under vmap of vmap there is a branch for the batch, and one for each of its data."""
    lost = jax.tree.map(lambda a: a[0], batch(finisher, 0, 900.0, float))
    trees = stack([*(random_tree(i, *SIZES) for i in range(3)), lost])
    grid = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), trees)
    compiled = jax.jit(jax.vmap(jax.vmap(lambda q: q.log_partition()))).lower(grid).compile()
    assert " conditional(" in compiled.as_text()
    exact = [numpy_inside(*(np.asarray(a[i]) for a in q_arrays(trees))) for i in range(4)]
    np.testing.assert_allclose(compiled(grid).reshape(4), exact, rtol=1e-12)


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
        TreePosterior(**{**parts, **change}).log_partition()
    with pytest.raises(ValueError, match="preterminals: got 0"):
        elbo.tree(1, 0)
