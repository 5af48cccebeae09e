"""Hidden Markov models and chains: EM iterations, the likelihood and the smoother of a long sequence, a CRF."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.models import hmm
from elbo.models.families import Categorical, Normal

from .. import measure
from ..peers import Contender, reference
from .problem import Answer, Problem, Target


class Sequences(NamedTuple):
    """Sequences of one length, and where EM of an HMM starts.

    Attributes:
      ys: [N, T, D] float32, or int32 [N, T].
      initial, transition: probabilities, [K], [K, K].
      emission: (means, variances), each [K, D]; or (probabilities,), [K, V].
      steps: EM iterations before the answers are compared.
    """

    ys: np.ndarray
    initial: np.ndarray
    transition: np.ndarray
    emission: tuple[np.ndarray, ...]
    steps: int

    def answer(self, log_likelihood, initial, transition, emission) -> Answer:
        """What a contender says after `steps`: ln P of the data, and that of its parameters as the judge sees it."""
        judged = reference.hmm_log_likelihood(self.ys, initial, transition, *emission)
        return {"log-likelihood": np.asarray(log_likelihood), "parameters' log-likelihood": judged}

    def log_emissions(self) -> np.ndarray:
        """ln p(y_t | state), [N, T, K], float32, of where EM starts."""
        return reference.hmm_log_emissions(self.ys, *self.emission).astype(np.float32)


def make_sequences(count: int, frames: int, states: int, size: int, steps: int = 3, values: int = 0) -> Sequences:
    """Sticky chains; emissions are Gaussians with a diagonal covariance, or one of `values` values."""
    rng = np.random.default_rng(0)
    stay = 0.9 * np.eye(states) + 0.1 * rng.dirichlet(np.ones(states), size=states)
    which = np.zeros((count, frames), int)
    which[:, 0] = rng.integers(states, size=count)
    cumulative = np.cumsum(stay, -1)
    for t in range(1, frames):
        which[:, t] = np.sum(rng.random((count, 1)) > cumulative[which[:, t - 1]], -1).clip(max=states - 1)
    start = 0.8 * np.eye(states) + 0.2 / states
    initial = np.full(states, 1 / states)
    if values:
        truth = rng.dirichlet(np.full(values, 0.1), size=states)
        ys = (rng.random((count, frames, 1)) > np.cumsum(truth, -1)[which]).sum(-1).clip(max=values - 1)
        guess = 0.5 * truth + 0.5 * rng.dirichlet(np.ones(values), size=states)
        return Sequences(ys.astype(np.int32), initial, start, (guess,), steps)
    centres = 2 * rng.standard_normal((states, size))
    ys = (centres[which] + rng.standard_normal((count, frames, size))).astype(np.float32)
    means = centres + 0.5 * rng.standard_normal(centres.shape)
    return Sequences(ys, initial, start, (means, np.full((states, size), 2.0)), steps)


def _theta(data: Sequences) -> hmm.Theta:
    if len(data.emission) == 1:
        emission: Any = Categorical.create(jnp.asarray(data.emission[0], jnp.float32))
    else:
        means, variances = (jnp.asarray(a, jnp.float32) for a in data.emission)
        emission = Normal.create(means, jnp.sqrt(variances))
    initial, transition = (jnp.asarray(a, jnp.float32) for a in (data.initial, data.transition))
    return hmm.Theta(Categorical.create(initial), Categorical.create(transition), emission)


def our_hmm(data: Sequences) -> Contender:
    """One update of `em_step`."""
    theta = _theta(data)
    model, params = hmm.model(len(data.initial)), elbo.Params.tied(theta)
    rule, ys = optim.em_step(model), jnp.asarray(data.ys)
    compiled = measure.compile_program(jax.jit(lambda p, y: rule.update(None, p, (), y)), params, ys)

    def answer():
        moving = params
        for _ in range(data.steps):
            moving, _, _ = compiled.call(moving, ys)
        new = moving.theta
        emission = new.emission
        if isinstance(emission, Categorical):
            parts: tuple = (emission.probabilities(),)
        else:
            parts = emission.mean, emission.scale() ** 2
        value = compiled.call(moving, ys)[2].elbo * len(data.ys)
        return data.answer(value, new.initial.probabilities(), new.transition.probabilities(), parts)

    return Contender("elbo", "", answer, measure.carried(compiled, (params,), ys), compiled)


def _chain(data: Sequences, log_p: jax.Array) -> elbo.posteriors.ChainPosterior:
    logs = (jnp.asarray(np.log(a), jnp.float32) for a in (data.initial, data.transition))
    return elbo.posteriors.ChainPosterior(*logs, log_p, jnp.asarray(log_p.shape[0], jnp.int32))


def our_likelihood(data: Sequences) -> Contender:
    """`log_partition` of one chain, from its emissions' log-likelihoods."""
    log_p = jnp.asarray(data.log_emissions()[0])
    compiled = measure.compile_program(jax.jit(lambda e: _chain(data, e).log_partition()), log_p)
    return Contender(
        "elbo", "", lambda: {"ln P": np.asarray(compiled.call(log_p))}, measure.repeated(compiled.call, log_p), compiled
    )


def our_smoother(data: Sequences) -> Contender:
    """`mean` of one chain, from its emissions' log-likelihoods."""
    log_p = jnp.asarray(data.log_emissions()[0])
    compiled = measure.compile_program(jax.jit(lambda e: _chain(data, e).mean().states), log_p)

    def answer():
        return {"marginals": np.asarray(compiled.call(log_p))}

    return Contender("elbo", "", answer, measure.repeated(compiled.call, log_p), compiled)


class Field(NamedTuple):
    """Potentials of linear-chain conditional random fields, float32: [B, K], [B, T-1, K, K], [B, T, K]."""

    initial: np.ndarray
    transition: np.ndarray
    states: np.ndarray


def make_field(count: int, frames: int, states: int) -> Field:
    """Standard normal potentials, others for each sequence and step."""
    rng = np.random.default_rng(0)
    shapes = (count, states), (count, frames - 1, states, states), (count, frames, states)
    return Field(*(rng.standard_normal(s).astype(np.float32) for s in shapes))


def our_field(data: Field) -> Contender:
    """ln Z and the marginals of each step's transition."""
    fields = tuple(jnp.asarray(a) for a in data)

    def one(initial, transition, states):
        q = elbo.posteriors.ChainPosterior(
            initial, transition, states, jnp.asarray(states.shape[0], jnp.int32)
        ).prepared()
        return q.log_partition(), q.mean().transitions

    compiled = measure.compile_program(jax.jit(jax.vmap(one)), *fields)

    def answer():
        value, marginals = compiled.call(*fields)
        return {"ln Z": np.asarray(value), "marginals": np.asarray(marginals)}

    return Contender("elbo", "", answer, measure.repeated(compiled.call, *fields), compiled)


def hmm_flops(data: Sequences) -> float:
    """Forward, backward and transition counts, 2 K² each; emissions and their statistics of Gaussians, 8 K D."""
    frames, states = data.ys.shape[0] * data.ys.shape[1], len(data.initial)
    emission = 8.0 * data.ys.shape[2] * states if data.ys.ndim == 3 else states
    return frames * (6.0 * states**2 + emission)


_EM = dict(
    make=make_sequences,
    unit="EM iteration",
    ours=our_hmm,
    reference=lambda data: reference.hmm_answer(data),
    flops=hmm_flops,
    counted="three products with the transitions a frame, emissions and their statistics",
    tolerance={"log-likelihood": 1e-5, "parameters' log-likelihood": 1e-5},
    peers=("hmmlearn", "dynamax"),
)
_LONG = dict(count=1, frames=100_000, states=5, size=2)
_TINY = dict(count=2, frames=20, states=3, size=2)

CHAINS = (
    Problem(
        name="hmm",
        description="Gaussian HMM, diagonal covariance, 64 sequences of T=1,000, K=8 D=4, one EM iteration",
        task="hmm",
        sizes=dict(count=64, frames=1000, states=8, size=4),
        tiny=_TINY,
        targets=(Target("4x the best peer", 4),),
        **_EM,
    ),
    Problem(
        name="hmm-long",
        description="Gaussian HMM, diagonal covariance, one sequence of T=100,000, K=5 D=2, one EM iteration",
        task="hmm",
        sizes=_LONG,
        tiny=_TINY,
        targets=(Target("3x the best peer", 3),),
        **_EM,
    ),
    Problem(
        name="hmm-words",
        description="categorical HMM, 100 sequences of T=500, K=32, 1,000 values, one EM iteration",
        task="hmm_words",
        sizes=dict(count=100, frames=500, states=32, size=0, values=1000),
        tiny=dict(count=2, frames=20, states=3, size=0, values=6),
        targets=(Target("5x the best peer", 5),),
        **{**_EM, "peers": ("hmmlearn",)},
    ),
    Problem(
        name="hmm-likelihood",
        description="HMM, ln P of one sequence of T=100,000, K=5, from its emissions' log-likelihoods",
        unit="call",
        task="hmm_likelihood",
        make=make_sequences,
        sizes=_LONG,
        tiny=_TINY,
        ours=our_likelihood,
        reference=lambda data: reference.hmm_posterior(data)[0],
        tolerance={"ln P": 1e-5},
        flops=lambda data: 2.0 * data.ys.shape[1] * len(data.initial) ** 2,
        counted="a product with the transitions a frame",
        peers=("hmmlearn", "dynamax"),
        targets=(Target("1.25x the best peer", 1.25),),
    ),
    Problem(
        name="hmm-smoother",
        description="HMM, smoothed states of one sequence of T=100,000, K=5, from its emissions' log-likelihoods",
        unit="call",
        task="hmm_smoother",
        make=make_sequences,
        sizes=_LONG,
        tiny=_TINY,
        ours=our_smoother,
        reference=lambda data: reference.hmm_posterior(data)[1],
        tolerance={"marginals": 1e-3},
        flops=lambda data: 4.0 * data.ys.shape[1] * len(data.initial) ** 2,
        counted="two products with the transitions a frame",
        peers=("hmmlearn", "dynamax"),
        targets=(Target("2x the best peer", 2),),
    ),
    Problem(
        name="crf",
        description="linear-chain CRF, 64 sequences of T=200, 32 states, ln Z and marginals of the transitions",
        unit="call",
        task="crf",
        make=make_field,
        sizes=dict(count=64, frames=200, states=32),
        tiny=dict(count=2, frames=5, states=3),
        ours=our_field,
        reference=lambda data: reference.crf(data),
        tolerance={"ln Z": 1e-5, "marginals": 1e-3},
        flops=lambda data: 6.0 * data.transition.size,
        counted="a product forwards, one backwards and the marginals, 2 a potential",
        peers=("autodiff",),
        targets=(Target("2.5x the best peer", 2.5),),
    ),
)
