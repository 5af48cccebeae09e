"""`optax.ctc_loss`, differentiated by JAX."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import measure
from . import Contender

if TYPE_CHECKING:
    from ..problems import Transcripts

MODULE = "optax"
INSTALL = "pip install optax"


def ctc(data: "Transcripts") -> list[Contender]:
    """The losses, and the gradient of their sum in the logits."""
    logits, labels = jnp.asarray(data.logits), jnp.asarray(data.labels)
    nothing = jnp.zeros(logits.shape[:2]), jnp.zeros(labels.shape)

    def total(logits, labels):
        losses = optax.ctc_loss(logits, nothing[0], labels, nothing[1])
        return jnp.sum(losses), losses

    compiled = measure.compile_program(jax.jit(jax.value_and_grad(total, has_aux=True)), logits, labels)

    def answer():
        (_, losses), gradient = compiled.call(logits, labels)
        return {"loss": np.asarray(losses), "gradient": np.asarray(gradient)}

    return [Contender("optax", "", answer, measure.repeated(compiled.call, logits, labels), compiled)]


TASKS = {"ctc": ctc}
