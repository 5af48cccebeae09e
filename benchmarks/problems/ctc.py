"""CTC: the loss and its gradient in the logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo.models.ctc import ctc_loss

from .. import measure
from ..peers import Contender, reference
from .problem import Problem, Target


class Transcripts(NamedTuple):
    """Logits [B, T, V] float32, and labels int32 [B, L] of 1 to V − 1; symbol 0 is the blank. All of full length."""

    logits: np.ndarray
    labels: np.ndarray


def make_transcripts(count: int, frames: int, symbols: int, labels: int) -> Transcripts:
    """Standard normal logits and random labels: as far from each other as they ever are, at the start of training."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((count, frames, symbols)).astype(np.float32)
    return Transcripts(logits, rng.integers(1, symbols, (count, labels)).astype(np.int32))


def our_ctc(data: Transcripts) -> Contender:
    """`ctc_loss` and the gradient of its sum."""
    logits, labels = jnp.asarray(data.logits), jnp.asarray(data.labels)
    nothing = jnp.zeros(logits.shape[:2]), jnp.zeros(labels.shape)

    def total(logits, labels):
        losses = ctc_loss(logits, nothing[0], labels, nothing[1])
        return jnp.sum(losses), losses

    compiled = measure.compile_program(jax.jit(jax.value_and_grad(total, has_aux=True)), logits, labels)

    def answer():
        (_, losses), gradient = compiled.call(logits, labels)
        return {"loss": np.asarray(losses), "gradient": np.asarray(gradient)}

    return Contender("elbo", "", answer, measure.repeated(compiled.call, logits, labels), compiled)


def ctc_flops(data: Transcripts) -> float:
    """Three exponentials and sums for each logit, and forward, backward and marginals of 2L + 1 states."""
    return 6.0 * data.logits.size + 12.0 * data.logits[..., 0].size * (2 * data.labels.shape[1] + 1)


_CTC = dict(
    unit="loss and gradient",
    task="ctc",
    make=make_transcripts,
    tiny=dict(count=2, frames=12, symbols=5, labels=4),
    ours=our_ctc,
    reference=lambda data: reference.ctc(data),
    tolerance={"loss": 1e-5, "gradient": 0.02},
    flops=ctc_flops,
    counted="6 a logit, 12 a frame and state",
    peers=("optax", "torch"),
)

TRANSCRIPTS = (
    Problem(
        name="ctc",
        description="CTC, 32 sequences of T=500, 64 symbols, 60 labels, loss and its gradient in the logits",
        sizes=dict(count=32, frames=500, symbols=64, labels=60),
        targets=(Target("3x the best peer", 3),),
        **_CTC,
    ),
    Problem(
        name="ctc-words",
        description="CTC, 8 sequences of T=1,500, 5,000 symbols, 100 labels, loss and its gradient in the logits",
        sizes=dict(count=8, frames=1500, symbols=5000, labels=100),
        targets=(Target("2x the best peer", 2),),
        **_CTC,
    ),
)
