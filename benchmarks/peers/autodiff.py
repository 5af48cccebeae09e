"""A chain as one writes it by hand in JAX: log-sum-exp in a scan, and marginals by automatic differentiation."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .. import measure
from . import Contender

if TYPE_CHECKING:
    from ..problems import Field

MODULE = "jax"
INSTALL = "pip install jax"


def crf(data: "Field") -> list[Contender]:
    """ln Z and its gradient in the transitions, mapped over the sequences."""
    fields = tuple(jnp.asarray(a) for a in data)

    def log_z(transition, initial, states):
        def step(alpha, now):
            pair, state = now
            return jax.nn.logsumexp(alpha[:, None] + pair, 0) + state, None

        return jax.nn.logsumexp(jax.lax.scan(step, initial + states[0], (transition, states[1:]))[0])

    program = jax.jit(jax.vmap(jax.value_and_grad(log_z)))
    args = fields[1], fields[0], fields[2]
    compiled = measure.compile_program(program, *args)

    def answer():
        value, marginals = compiled.call(*args)
        return {"ln Z": np.asarray(value), "marginals": np.asarray(marginals)}

    return [Contender("autodiff", "log-space scan", answer, measure.repeated(compiled.call, *args), compiled)]


TASKS = {"crf": crf}
