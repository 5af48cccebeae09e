"""Connectionist temporal classification: labels without their times, from a network that sees the frames.

With m = model(network) and ys an `elbo.Labelled`:

    fit       optim.fit(optim.eg_step(m, optimizer), elbo.Params(weights), ys).params
    score     elbo.evidence(m)(params, ys) is minus the loss, nats, [N]; `ctc_loss` has optax's arguments
    decode    ctc_decoding.beam_search(logits), ctc_decoding.greedy(logits)
    align     m.posterior(params, y).best()[0] of one datum
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import PyTree, value

from .ctc_loss import ctc_loss, pick

Apply = Callable[[PyTree, elbo.Padded], jax.Array]

__all__ = ["ctc_loss", "model", "usable"]


@value
class Joint:
    """The log_joint of `model`; equal where its fields are, so that equal models share one compiled program."""

    apply: Apply
    blank: int
    stride: int

    def __call__(self, theta: PyTree, z: jax.Array, y: elbo.Labelled) -> jax.Array:
        """ln P(z, labels | inputs) of one datum, nats."""
        inputs, labels = elbo.as_padded(y.inputs).clean(), elbo.as_padded(y.labels)
        logits = self.apply(theta, inputs)
        _check(logits, -(-inputs.frames // self.stride), self.blank)
        log_p = jax.nn.log_softmax(jnp.maximum(logits, elbo.LOG_ZERO))
        counts = (jnp.arange(len(logits)) < -(-inputs.length // self.stride))[:, None]
        log_p = jnp.where(counts, log_p, 0)
        product = partial(jnp.vdot, precision=elbo.PRECISION)
        return product(jnp.sum(z[:, ::2], 1), log_p[:, self.blank]) + product(
            z[:, 1::2], pick(log_p, labels.clean().values, self.blank)
        )


def model(apply: Apply, *, blank: int = 0, stride: int = 1) -> elbo.Model:
    """ln P_Θ(z, labels | inputs) = Σ_t ln softmax(logits_t)[symbol of z_t], posterior an `AlignmentPosterior`.

    z, the indicator [T, 2L+1] of a path through the labels with blanks around them, is all that is latent: labels are a
    function of z, and inputs are given. So `elbo.evidence` is ln P(labels | inputs), minus the CTC loss, and `eg_step`
    trains it (Graves et al. 2006). A pair that does not fit is impossible: −∞, no gradient, counted in `info.dropped`.

    A datum y is `elbo.Labelled(inputs, labels)`.

    Args:
      apply: `apply(theta, inputs)`, logits [⌈T / stride⌉, V] of one sequence. inputs is an `elbo.Padded` with zeros in
        its padding; a network that looks around needs `inputs.mask()` to make nothing of the padding.
      blank: the symbol, 0 to V − 1, that stands for no label.
      stride: frames of the inputs for each frame of the logits.

    >>> y = elbo.Labelled(jnp.zeros((1, 3, 2)), jnp.array([[1]]))
    >>> ctc = model(lambda theta, inputs: theta * inputs.values)
    >>> jnp.exp(elbo.evidence(ctc)(elbo.Params(jnp.ones(()), None), y)).tolist()  # 6 of 8 strings
    [0.75]
    """
    joint = Joint(apply, blank, stride)
    return elbo.Model(joint, elbo.exact(joint, elbo.alignment(stride)), usable)


def usable(y: elbo.Labelled) -> jax.Array:
    """Whether a datum can be used: both lengths are in range (0 labels are), and its inputs are finite."""
    inputs, labels = elbo.as_padded(y.inputs), elbo.as_padded(y.labels)
    in_range = (labels.length >= 0) & (labels.length <= labels.frames)
    return in_range & inputs.is_sound() & elbo.numerics.all_finite(inputs.clean().values)


def _check(logits: jax.Array, frames: int, blank: int) -> None:
    shape, dtype = jnp.shape(logits), jnp.result_type(logits)
    if len(shape) != 2 or shape[0] != frames or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"apply: returned {dtype}{list(shape)}, expected floating-point logits [{frames}, V], one row for each "
            "`stride` frames of the inputs"
        )
    if not 0 <= blank < shape[1]:
        raise ValueError(f"blank: got {blank}, expected one of the {shape[1]} symbols, 0 to V - 1")
