"""The CTC loss of logits, in the way of `optax.ctc_loss`: −ln P(labels | inputs), its gradient the posterior's."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import anywhere, by_platform
from elbo.posteriors.alignment import passes as alignment_passes
from elbo.posteriors.alignment.path import Sizes, States, clean

FEW = 256  # up to so many symbols a product with one-hot rows is faster than gathering and scattering on a CPU


@partial(anywhere, like_data=True)
def ctc_loss(
    logits: jax.Array,
    logit_paddings: jax.Array,
    labels: jax.Array,
    label_paddings: jax.Array,
    *,
    blank_id: int = 0,
) -> jax.Array:
    """−ln P(labels | logits) of a batch, summed over all alignments, nats; conventions as in `optax.ctc_loss`.

        ∂ loss / ∂ logits_tv = softmax(logits_t)_v − P(frame t is symbol v | labels)

    The loss is never negative. It is +∞, with no gradient, where the labels do not fit into the frames (repeated labels
    need a blank between them) or one of them is out of range or the blank, and NaN where a logit inside of the lengths
    is, or where padding does not come last. What stands in the padding is ignored. O(T (L + V)) for each datum.

    Args:
      logits: [B, T, V], floating point; computed in float32 at least.
      logit_paddings: [B, T], 1 (or true) for frames that do not count, all of them at the end.
      labels: int [B, N].
      label_paddings: [B, N], 1 (or true) for labels that do not count, all of them at the end.
      blank_id: the symbol that stands for no label.

    Returns:
      [B]. `jnp.sum` of it over the finite ones is what to train on; its derivatives of any order are by reverse mode.

    >>> logits = jnp.zeros((1, 3, 2))
    >>> loss = ctc_loss(logits, jnp.zeros((1, 3)), jnp.array([[1]]), jnp.zeros((1, 1)))
    >>> jnp.exp(-loss).tolist()  # 6 of 8 strings
    [0.75]
    """
    logits, labels = jnp.asarray(logits), elbo.numerics.widen(jnp.asarray(labels))
    _check(logits, logit_paddings, labels, label_paddings, blank_id)
    frames, ordered = _lengths(logit_paddings)
    count, in_order = _lengths(label_paddings)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    loss = _loss(blank_id, wide, frames, labels, count)
    return jnp.where(ordered & in_order, loss, jnp.nan)


def pick(values: jax.Array, symbols: jax.Array, blank: int) -> jax.Array:
    """values[..., t, symbols[..., l]], [..., T, L]; `LOG_ZERO` for symbols that are out of range, or the blank."""
    size, symbols = values.shape[-1], elbo.numerics.widen(symbols)
    valid = (symbols >= 0) & (symbols < size) & (symbols != blank)
    symbols = jnp.where(valid, symbols, 0)
    if size <= FEW:
        picked = jnp.einsum("...tv,...lv->...tl", values, _one_hot(symbols, values), precision=elbo.PRECISION)
    else:
        picked = jnp.take_along_axis(values, symbols[..., None, :], axis=-1)
    return jnp.where(valid[..., None, :], picked, elbo.LOG_ZERO)


class Normalizer(NamedTuple):
    """ln Σ_v exp logits_tv as a sum, [B, T, 1] each, so that what is subtracted from the logits keeps its digits.

    Attributes:
      top: the largest logit of the frame.
      rest: ln Σ_v exp(logits_tv − top); NaN where all are −∞.
    """

    top: jax.Array
    rest: jax.Array

    def log_p(self, logits: jax.Array) -> jax.Array:
        """ln softmax."""
        return (logits - self.top) - self.rest


def log_normalizer(logits: jax.Array) -> Normalizer:
    """The normaliser of each frame of [B, T, V]."""

    def normalizer(x):
        top = jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True))
        terms = jnp.exp(x - top)
        if x.ndim == 2:
            # a sum that computes what it sums is not vectorised on a CPU; for one frame the barrier costs no memory
            terms = jax.lax.optimization_barrier(terms)
        return Normalizer(
            top, jnp.where(top <= elbo.numerics.IMPOSSIBLE, jnp.nan, jnp.log(jnp.sum(terms, -1, keepdims=True)))
        )

    def in_turn(logits):
        at = partial(jax.lax.dynamic_index_in_dim, logits, axis=1, keepdims=False)
        each = jax.lax.map(lambda t: normalizer(at(t)), jnp.arange(logits.shape[1]))
        return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), each)

    if logits.shape[-1] <= FEW:
        return normalizer(logits)
    return by_platform(logits, cpu=in_turn, default=normalizer)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(blank, logits, frames, labels, count):
    """[B]."""
    problem, _ = _potentials(blank, logits, frames, labels, count)
    return _as_loss(jax.vmap(alignment_passes.log_partition)(*problem))


def _forward(blank, logits, frames, labels, count):
    problem, normalizer = _potentials(blank, logits, frames, labels, count)
    log_z, marginals = jax.vmap(alignment_passes.smooth)(*problem)
    return _as_loss(log_z), (logits, frames, labels, normalizer, log_z, marginals)


def _backward(blank, residuals, slope):
    logits, frames, labels, normalizer, log_z, marginals = residuals
    size = logits.shape[-1]
    # an impossible datum has no marginals, and no softmax either
    slope = jnp.where(log_z <= elbo.numerics.IMPOSSIBLE, 0, slope)[:, None, None]
    counts = (jnp.arange(logits.shape[1]) < frames[:, None])[..., None]
    expected = jnp.where(counts, jnp.exp(normalizer.log_p(logits)), 0)
    in_blank = jnp.where(jnp.arange(size) == blank, jnp.sum(marginals.blanks, -1, keepdims=True), 0)
    if size <= FEW:
        one_hot = _one_hot(labels, logits)
        seen = jnp.einsum("btl,blv->btv", marginals.labels, one_hot, precision=elbo.PRECISION)
        gradient = slope * (expected - in_blank - seen)
    else:
        columns = jax.vmap(lambda g, where, x: g.at[:, where].add(x, mode="drop"))
        gradient = columns(slope * (expected - in_blank), labels, -slope * marginals.labels)
    return gradient, None, None, None


_loss.defvjp(_forward, _backward)


def _potentials(blank, logits, frames, labels, count):
    """Log potentials with their sizes, and the normaliser of each frame."""
    values = jnp.maximum(logits, elbo.LOG_ZERO)
    normalizer = log_normalizer(values)
    in_blank, in_labels = values[..., blank, None], pick(values, labels, blank)
    potentials = States(normalizer.log_p(in_blank), normalizer.log_p(in_labels))
    repeats = jnp.pad(labels[:, 1:] == labels[:, :-1], ((0, 0), (min(labels.shape[1], 1), 0)))
    sizes = Sizes(frames, count, repeats)
    return (clean(potentials, sizes), sizes), normalizer


def _as_loss(log_z):
    """−ln Z; rounding must not make a probability larger than 1."""
    return jnp.where(log_z <= elbo.numerics.IMPOSSIBLE, jnp.inf, jnp.maximum(-log_z, 0))


def _one_hot(symbols, like):
    return jax.nn.one_hot(symbols, like.shape[-1], dtype=like.dtype)


def _lengths(paddings):
    """How many entries of each row count, and whether these come first."""
    counts = ~jnp.asarray(paddings).astype(bool)
    return jnp.sum(counts, -1, dtype=jnp.int32), jnp.all(counts[:, :-1] >= counts[:, 1:], -1)


def _check(logits, logit_paddings, labels, label_paddings, blank_id):
    if logits.ndim != 3 or logits.shape[1] < 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits: got {logits.dtype}{list(logits.shape)}, expected floating-point [B, T, V], T >= 1")
    if labels.ndim != 2 or len(labels) != len(logits) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels: got {labels.dtype}{list(labels.shape)}, expected integers [{len(logits)}, N]")
    for name, paddings, of in (
        ("logit_paddings", logit_paddings, logits.shape[:2]),
        ("label_paddings", label_paddings, labels.shape),
    ):
        if jnp.shape(paddings) != of:
            raise ValueError(f"{name}: got shape {list(jnp.shape(paddings))}, expected {list(of)}, 1 in the padding")
    if not 0 <= blank_id < logits.shape[2]:
        raise ValueError(f"blank_id: got {blank_id}, expected one of the {logits.shape[2]} symbols, 0 to V - 1")
