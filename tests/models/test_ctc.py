import functools
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbo
from elbo import Labelled, Padded, optim
from elbo.models import ctc, ctc_decoding
from elbo.models.ctc_loss import FEW, ctc_loss, log_normalizer

from ..elbo.alignments import smoothed

B, T, V, N = 6, 9, 5, 3


def batch(seed, blank=0, size=V):
    """Random lengths; repeats, no labels, as many frames as needed, and one frame too few."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(B, T, size))
    labels = rng.choice([v for v in range(size) if v != blank], size=(B, N))
    labels[1], labels[2], labels[5] = labels[1, 0], labels[2, 0], labels[5, 0]
    return logits, np.array([9, 5, 7, 6, 1, 4]), labels, np.array([3, 3, 2, 0, 1, 3])


def paddings(lengths, most):
    return (np.arange(most) >= np.asarray(lengths)[:, None]).astype(float)


def reference(logits, frames, labels, count, blank):
    """The loss and its gradient in the logits, float64 in log space."""
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    losses, gradients = np.zeros(len(logits)), np.zeros(logits.shape)
    for i, (n, k) in enumerate(zip(frames, count, strict=True)):
        symbols = np.full(2 * k + 1, blank)
        symbols[1::2] = labels[i, :k]
        repeats = np.append(False, labels[i, 1:] == labels[i, :-1])[:k]
        log_z, marginals = smoothed(log_p[i, :n][:, symbols], repeats)
        losses[i] = -log_z
        if log_z > -np.inf:
            gradients[i, :n] = np.exp(log_p[i, :n])
            for s, symbol in enumerate(symbols):
                gradients[i, :n, symbol] -= marginals[:, s]
    return losses, gradients


@functools.cache
def slope(blank=0):
    """Losses, and the gradient of the sum of the finite ones."""

    def total(logits, frames, labels, count):
        loss = ctc_loss(logits, frames, labels, count, blank_id=blank)
        return jnp.sum(jnp.where(loss < jnp.inf, loss, 0)), loss

    return jax.jit(jax.grad(total, has_aux=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("blank", [0, 2, V - 1])
def test_loss_and_gradient_equal_the_reference(x64, dtype, blank):
    logits, frames, labels, count = batch(blank, blank)
    truth, gradients = reference(logits, frames, labels, count, blank)
    logits = np.where(paddings(frames, T)[..., None] == 1, np.nan, logits).astype(dtype)
    labels = np.where(paddings(count, N) == 1, -9, labels)  # junk in all padding
    gradient, loss = slope(blank)(logits, paddings(frames, T), labels, paddings(count, N))
    assert loss.dtype == gradient.dtype == dtype
    assert truth[5] == np.inf and loss[5] == np.inf and not gradient[5].any()
    tolerance = 1e-12 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(loss, truth, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient, gradients, atol=tolerance)


def test_many_symbols_take_the_other_way(x64):
    """Gather and scatter, and a normaliser frame by frame, must give what the product with one-hot rows gives."""
    logits, frames, labels, count = batch(1, size=FEW + 5)
    args = paddings(frames, T), labels, paddings(count, N)
    truth, gradients = reference(logits, frames, labels, count, 0)
    gradient, loss = slope()(logits, *args)
    np.testing.assert_allclose(loss, truth, rtol=1e-12)
    np.testing.assert_allclose(gradient, gradients, atol=1e-13)
    np.testing.assert_allclose(sum(log_normalizer(logits))[..., 0], np.logaddexp.reduce(logits, axis=-1), rtol=1e-13)


def test_equals_optax(x64):
    """Not in its tenth decimal: ln 0 is −1e5 there."""
    logits, frames, labels, count = (a[:5] for a in batch(2))
    args = paddings(frames, T), labels, paddings(count, N)
    gradient, loss = slope()(logits, *args)

    def total(x):
        losses = optax.ctc_loss(x, *args)
        return jnp.sum(losses), losses

    theirs, losses = jax.jit(jax.grad(total, has_aux=True))(logits)
    np.testing.assert_allclose(loss, losses, rtol=1e-9)
    np.testing.assert_allclose(gradient, theirs, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("blank", [0, 2])
def test_equals_torch(x64, dtype, blank):
    torch = pytest.importorskip("torch")
    logits, frames, labels, count = batch(3, blank)
    x = torch.tensor(logits.astype(dtype), requires_grad=True)
    losses = torch.nn.functional.ctc_loss(
        torch.log_softmax(x, -1).transpose(0, 1),
        *(torch.tensor(a) for a in (labels, frames, count)),
        **{"blank": blank, "reduction": "none", "zero_infinity": True},
    )
    losses.sum().backward()
    gradient, loss = slope(blank)(logits.astype(dtype), paddings(frames, T), labels, paddings(count, N))
    tolerance = 1e-8 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(loss[:5], losses.detach().numpy()[:5], rtol=tolerance)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=tolerance)


def test_confident_logits_give_no_negative_loss_in_float32():
    rng = np.random.default_rng(0)
    labels = np.tile([1, 2, 3], (B, 1))
    path = np.repeat([0, 1, 0, 2, 3, 0, 0, 0, 0], 1)
    for scale in (1.0, 17.0, 30.0, 90.0, 1e4):
        logits = (scale * np.eye(V)[path] + 0.1 * rng.normal(size=(B, T, V))).astype(np.float32)
        gradient, loss = slope()(logits, np.zeros((B, T)), labels, np.zeros((B, N)))
        truth, _ = reference(logits.astype(np.float64), [T] * B, labels, [N] * B, 0)
        assert (loss >= 0).all() and np.isfinite(gradient).all()
        # a probability of almost 1 is known up to its own rounding
        np.testing.assert_allclose(loss, truth, rtol=1e-5, atol=T * 2e-7)


def test_derivatives_of_second_order(x64):
    logits, frames, labels, count = batch(4)
    args = paddings(frames, T), labels, paddings(count, N)
    direction = np.random.default_rng(0).normal(size=logits.shape)
    first = lambda x: slope()(x, *args)[0]
    along = jax.jit(jax.grad(lambda x: jnp.vdot(first(x), direction)))
    step = 1e-5
    difference = (first(logits + step * direction) - first(logits - step * direction)) / (2 * step)
    np.testing.assert_allclose(along(logits), difference, atol=1e-8)


def test_bad_values_are_told():
    logits, frames, labels, count = batch(5)
    logits = logits.astype(np.float32)
    holes, far = paddings(frames, T), labels.copy()
    holes[4] = 0, 1, 0, *[1] * 6  # padding that does not come last
    far[1, 1], far[2, 0] = V, 0  # out of range, and the blank
    logits[3, 1, 2], logits[0, 0] = np.nan, -np.inf  # no symbol is possible
    gradient, loss = slope()(logits, holes, far, paddings(count, N))
    gradient, loss = np.asarray(gradient), np.asarray(loss)
    assert np.isnan(loss[[0, 3, 4]]).all() and (loss[[1, 2, 5]] == np.inf).all() and not gradient[[1, 2, 5]].any()
    with pytest.raises(ValueError, match=r"logits: got float32\[9, 5\]"):
        ctc_loss(jnp.zeros((T, V)), holes, labels, paddings(count, N))
    with pytest.raises(ValueError, match=r"labels: got float64\[6, 3\]|labels: got float32\[6, 3\]"):
        ctc_loss(jnp.zeros((B, T, V)), holes, jnp.zeros((B, N)), paddings(count, N))
    with pytest.raises(ValueError, match=r"label_paddings: got shape \[6, 2\], expected \[6, 3\]"):
        ctc_loss(jnp.zeros((B, T, V)), holes, labels, paddings(count, 2))
    with pytest.raises(ValueError, match="blank_id: got 5"):
        ctc_loss(jnp.zeros((B, T, V)), holes, labels, paddings(count, N), blank_id=V)


# the model


def linear(theta, inputs):
    return inputs.values @ theta["w"] + theta["b"]


def data(dtype=float):
    rng = np.random.default_rng(6)
    inputs, (_, frames, labels, count) = rng.normal(size=(B, T, 2)).astype(dtype), batch(7)
    theta = {"w": jnp.asarray(rng.normal(size=(2, V)).astype(dtype)), "b": jnp.zeros(V, dtype)}
    return theta, inputs, frames, labels, count


def test_evidence_is_minus_the_loss_and_eg_follows_its_gradient(x64):
    """Fisher's identity: a step on E_q ln P(z, y) at the exact q is one on ln P(y); the infeasible pair is dropped."""
    theta, inputs, frames, labels, count = data()
    junk = np.where(paddings(frames, T)[..., None] == 1, np.nan, inputs)
    ys = Labelled(Padded(jnp.asarray(junk), jnp.asarray(frames)), Padded(jnp.asarray(labels), jnp.asarray(count)))
    model = ctc.model(linear)

    def losses(theta):
        logits = jnp.asarray(inputs) @ theta["w"] + theta["b"]
        return ctc_loss(logits, paddings(frames, T), labels, paddings(count, N))

    evidence = elbo.evidence(model)(elbo.Params(theta, None), ys)

    def mean_of_finite(theta):
        each = losses(theta)
        return jnp.mean(each[:5]), each

    (mean, each), gradient = jax.jit(jax.value_and_grad(mean_of_finite, has_aux=True))(theta)
    np.testing.assert_allclose(evidence, -each, rtol=1e-12)
    assert evidence[5] == -jnp.inf
    rule = optim.eg_step(model, optax.sgd(1.0))
    moved, _, info = rule.update(None, elbo.Params.tied(theta), rule.init(elbo.Params.tied(theta)), ys)
    np.testing.assert_allclose(info.elbo, -mean, rtol=1e-12)
    assert info.dropped == 1 and not info.feasible
    for name in theta:
        np.testing.assert_allclose(theta[name] - moved.theta[name], gradient[name], atol=1e-12)


def test_evidence_is_the_bound_at_the_exact_posterior_in_float32():
    theta, inputs, frames, labels, count = data(np.float32)
    ys = Labelled(Padded(jnp.asarray(inputs), jnp.asarray(frames)), Padded(jnp.asarray(labels), jnp.asarray(count)))
    d = elbo.decompose(ctc.model(linear))(elbo.Params(theta, jax.tree.map(lambda a: 0.5 * a, theta)), ys)
    np.testing.assert_allclose(d.elbo[:5], (d.evidence - d.kl)[:5], rtol=1e-5, atol=1e-5)
    assert min(d.kl[0], d.kl[2]) > 1e-3  # the second has one alignment only


def test_other_lengths_compile_nothing_new():
    traces = []

    @jax.jit
    def f(logits, frames, count):
        traces.append(1)
        return ctc_loss(logits, frames, jnp.ones((2, 2), int) * jnp.array([1, 2]), count)

    one = f(jnp.zeros((2, 4, 3)), paddings([4, 3], 4), paddings([2, 1], 2))
    assert len(traces) == 1 and (one != f(jnp.zeros((2, 4, 3)), paddings([3, 2], 4), paddings([1, 0], 2))).all()
    assert len(traces) == 1


def test_stride_and_wrong_networks():
    halved = lambda theta, inputs: theta * inputs.values[::2]
    y = Labelled(Padded(jnp.zeros((1, 5, 2)), jnp.array([5])), jnp.array([[1]]))
    found = elbo.evidence(ctc.model(halved, stride=2))(elbo.Params(jnp.ones(()), None), y)
    np.testing.assert_allclose(jnp.exp(found), 6 / 8, rtol=1e-6)
    with pytest.raises(ValueError, match=r"apply: returned float32\[3, 2\], expected floating-point logits \[5, V\]"):
        elbo.evidence(ctc.model(halved))(elbo.Params(jnp.ones(()), None), y)
    with pytest.raises(ValueError, match="blank: got 2, expected one of the 2 symbols"):
        elbo.evidence(ctc.model(halved, blank=2, stride=2))(elbo.Params(jnp.ones(()), None), y)


# decoding


def spelled(path, blank):
    return tuple(v for v, before in zip(path, (None, *path[:-1]), strict=True) if v not in (before, blank))


def test_beam_search_equals_brute_force(x64):
    """Over all label sequences of 4 frames and 3 symbols, with as many beams as there are prefixes; and with few."""
    blank, logits = 2, np.random.default_rng(8).normal(size=(4, 3))
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    totals: dict = {}
    for path in product(range(3), repeat=4):
        word = spelled(path, blank)
        totals[word] = np.logaddexp(totals.get(word, -np.inf), log_p[np.arange(4), path].sum())
    ranked = sorted(totals, key=totals.get, reverse=True)
    # a fifth frame of junk is padding
    search = functools.partial(ctc_decoding.beam_search, length=jnp.array(4), blank=blank)
    junk = jnp.asarray(np.vstack([logits, np.full(3, np.nan)]))
    found = jax.tree.map(np.asarray, jax.jit(functools.partial(search, beams=40))(junk))
    words = [tuple(row[:n].tolist()) for row, n in zip(found.labels, found.lengths, strict=True)]
    assert words[: len(ranked)] == ranked and (found.log_probs[len(ranked) :] == -np.inf).all()
    np.testing.assert_allclose(found.log_probs[: len(ranked)], [totals[w] for w in ranked], atol=1e-12)
    few = jax.tree.map(np.asarray, jax.jit(functools.partial(search, beams=3, most=2))(junk))
    for row, n, value in zip(few.labels, few.lengths, few.log_probs, strict=True):
        assert row.shape == (2,) and value <= totals[tuple(row[:n].tolist())] + 1e-12


def test_greedy_and_alignment():
    rng = np.random.default_rng(9)
    logits = jnp.asarray(rng.normal(size=(20, 7, 3)), jnp.float32)
    lengths = jnp.asarray(rng.integers(1, 8, 20))
    found = jax.jit(jax.vmap(ctc_decoding.greedy))(logits, lengths)
    for x, n, row, k in zip(*map(np.asarray, (logits, lengths, found.values, found.length)), strict=True):
        assert tuple(row[:k].tolist()) == spelled(x[:n].argmax(1).tolist(), 0) and (row[k:] == -1).all()
    # the best alignment of the labels that the best path spells is that path
    best = jax.jit(lambda *args: ctc_decoding.posterior(*args).best())
    states, score = best(logits[0], found.values[0], lengths[0], found.length[0])
    n, x = int(lengths[0]), np.asarray(logits[0], np.float64)
    symbols = np.where(states % 2 == 1, np.asarray(found.values[0])[states // 2], 0)
    assert symbols[:n].tolist() == x[:n].argmax(1).tolist()
    np.testing.assert_allclose(
        score, np.sum(x.max(1) - np.logaddexp.reduce(x, axis=1), where=np.arange(7) < n), rtol=1e-5
    )


def levenshtein(a, b):
    if not a or not b:
        return len(a) + len(b)
    options = levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0])
    return min(options)


def test_edit_distance():
    rng = np.random.default_rng(10)
    a, b = (Padded(jnp.asarray(rng.integers(3, size=(60, 5))), jnp.asarray(rng.integers(0, 6, 60))) for _ in range(2))
    words = lambda p: [tuple(row[:n].tolist()) for row, n in zip(*map(np.asarray, p), strict=True)]
    truth = [levenshtein(*pair) for pair in zip(words(a), words(b), strict=True)]
    assert jax.jit(jax.vmap(ctc_decoding.edit_distance))(a, b).tolist() == truth
    np.testing.assert_allclose(ctc_decoding.label_error_rate(a, b), sum(truth) / b.length.sum(), rtol=1e-6)
