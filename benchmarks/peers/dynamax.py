"""dynamax: its E step, mapped over the sequences, with its M step; its filter and smoother. float32."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .. import measure
from . import Contender

if TYPE_CHECKING:
    from ..problems import Sequences

MODULE = "dynamax"
INSTALL = "pip install --no-deps dynamax tfp-nightly, with what they need; tensorflow-probability does not go with it"


def hmm(data: "Sequences") -> list[Contender]:
    """One EM iteration under priors so weak that they do not show."""
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    states, size = data.emission[0].shape
    # the mode of the scales adds 3/2 to the concentration: this takes it away again
    weak = dict(emission_prior_mean_concentration=1e-6, emission_prior_concentration=-1.5, emission_prior_scale=1e-9)
    model = DiagonalGaussianHMM(
        states, size, initial_probs_concentration=1 + 1e-4, transition_matrix_concentration=1 + 1e-4, **weak
    )
    means, variances = (jnp.asarray(a, jnp.float32) for a in data.emission)
    params, properties = model.initialize(
        jax.random.key(0),
        initial_probs=jnp.asarray(data.initial, jnp.float32),
        transition_matrix=jnp.asarray(data.transition, jnp.float32),
        emission_means=means,
        emission_scale_diags=jnp.sqrt(variances),
    )
    ys = jnp.asarray(data.ys)
    m_state = model.initialize_m_step_state(params, properties)

    def step(params, ys):
        statistics, values = jax.vmap(lambda y: model.e_step(params, y))(ys)
        return model.m_step(params, properties, statistics, m_state)[0], jnp.sum(values)

    compiled = measure.compile_program(jax.jit(step), params, ys)

    def answer():
        moving = params
        for _ in range(data.steps):
            moving, _ = compiled.call(moving, ys)
        emission = moving.emissions.means, moving.emissions.scale_diags**2
        initial, transition = moving.initial.probs, moving.transitions.transition_matrix
        return data.answer(compiled.call(moving, ys)[1], initial, transition, emission)

    return [Contender("dynamax", "float32", answer, measure.carried(compiled, (params,), ys), compiled)]


def _passes(data: "Sequences", functions, name, read) -> list[Contender]:
    args = [jnp.asarray(a, jnp.float32) for a in (data.initial, data.transition, data.log_emissions()[0])]
    return [_pass(function, variant, args, name, read) for variant, function in functions.items()]


def _pass(function, variant, args, name, read) -> Contender:
    compiled = measure.compile_program(jax.jit(lambda *a: read(function(*a))), *args)
    answer = lambda: {name: np.asarray(compiled.call(*args))}
    return Contender("dynamax", variant, answer, measure.repeated(compiled.call, *args), compiled)


def likelihood(data: "Sequences") -> list[Contender]:
    """`hmm_filter`, of which only the likelihood is kept."""
    from dynamax.hidden_markov_model import hmm_filter, parallel_hmm_filter

    functions = _for_device(hmm_filter, parallel_hmm_filter)
    return _passes(data, functions, "ln P", lambda posterior: posterior.marginal_loglik)


def smoother(data: "Sequences") -> list[Contender]:
    """`hmm_smoother`."""
    from dynamax.hidden_markov_model import hmm_smoother, parallel_hmm_smoother

    functions = _for_device(hmm_smoother, parallel_hmm_smoother)
    return _passes(data, functions, "marginals", lambda posterior: posterior.smoothed_probs)


def _for_device(sequential, parallel):
    # on a CPU the parallel scan takes thirty times as long
    both = {"float32": sequential, "float32, parallel": parallel}
    return {"float32": sequential} if jax.default_backend() == "cpu" else both


TASKS = {"hmm": hmm, "hmm_likelihood": likelihood, "hmm_smoother": smoother}
