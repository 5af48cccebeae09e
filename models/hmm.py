"""Hidden Markov models with any family, or any function, as emission. With m = model(K):

fit       optim.fit(optim.em_step(m), init(key, ys, K), ys).params
score     elbo.evidence(m)(params, ys), nats, [N]
decode    hmm_inference.decode(m, params, ys).states (Viterbi); smooth, filter and predict are beside it
sample    sample(key, params.theta, frames)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import PyTree, anywhere, batch_length, value

from ._emission import MixtureEmission, clustered, scattered
from ._scales import valid_weights
from .criteria import free_parameters, one_of_each
from .families import Categorical
from .families import _data as of_family
from .families._data import data_log_prob, require_family
from .mixture import Covariance

Emit = Callable[..., jax.Array]
Start = Literal["free", "stationary"]


class Theta(NamedTuple):
    """Parameters of a hidden Markov model of K states.

    Attributes:
      initial: `Categorical` over the first state; None where it follows the stationary distribution of the transitions.
      transition: `Categorical` with batch shape (K,): row i is the state after state i.
      emission: a family with batch shape (K,), or what the model's `emit` reads (the weights of a network, say).
    """

    initial: Categorical | None
    transition: Categorical
    emission: Any

    def free_parameters(self) -> int:
        """See `criteria.free_parameters`."""
        one_of_each(initial=(self.initial, 0), transition=(self.transition, 1))
        return free_parameters(tuple(self))


class Frames(NamedTuple):
    """What is seen of one sequence. A bare array is `Frames(array)`.

    Attributes:
      values: [T, ...], what is emitted. A frame that holds a NaN, here or in its inputs, is missing: it is summed out.
      inputs: [T, ...], what the emission depends on besides the state (regressors, earlier frames), or None.
      observed: bool [T], False for frames that are missing, or None.
    """

    values: jax.Array
    inputs: PyTree = None
    observed: jax.Array | None = None


def emissions(theta: Theta, y: PyTree, emit: Emit | None = None) -> jax.Array:
    """ln p(y_t | state) of each frame of one sequence, [T, K], nats; 0 in missing frames and in the padding."""
    frames, length = _frames(y)
    present = _present(frames) & (jnp.arange(frames.values.shape[0]) < length)
    values, inputs = _with_stand_ins(present, (frames.values, frames.inputs))
    emit = emit or data_log_prob
    args = (values,) if inputs is None else (values, inputs)
    log_p = jax.vmap(lambda *a: emit(theta.emission, *a))(*args)
    # a state so narrow that its squares overflow is impossible, not −inf: 0 · (−inf) is NaN
    # a product, for a choice by frame would keep the compiler from vector instructions in all that reads it
    return jnp.maximum(log_p, elbo.LOG_ZERO) * present[:, None].astype(log_p.dtype)


@value
class Joint:
    """The log_joint of `model`; equal where its fields are, so that equal models share one compiled program."""

    emit: Emit | None
    start: Start

    def __call__(self, theta: Theta, z: elbo.posteriors.Path, y: PyTree) -> jax.Array:
        """ln P(z, y) of one sequence, nats."""
        states = z.states.shape[-1]
        if theta.transition.values != states:
            raise ValueError(
                f"theta: got {theta.transition.values} states, expected the {states} of hmm.model({states})"
            )
        steps = jax.vmap(lambda row, counts: row.log_prob(counts))(theta.transition, z.transitions)
        seen = jnp.sum(z.states * emissions(theta, y, self.emit))
        return self.initial(theta).log_prob(z.initial) + jnp.sum(steps) + seen

    def initial(self, theta: Theta) -> Categorical:
        """The distribution of the first state."""
        if (theta.initial is None) != (self.start == "stationary"):
            raise ValueError(
                f"theta.initial: got {_name(theta.initial)} in a model with start={self.start!r}, expected a "
                "Categorical where start='free', and None where start='stationary' (theta._replace(initial=None), or "
                "init(..., start='stationary')): the stationary distribution is a function of the transitions"
            )
        if theta.initial is None and theta.transition.tap is not None:
            raise TypeError(
                "theta.transition: the transitions of a stationary chain have no closed-form M step. Use eg_step or "
                "start='free'; or let EM move the emissions alone, optim.restrict(em_step(model), 'theta.emission')"
            )
        return first_state(theta)


def model(states: int, emit: Emit | None = None, start: Start = "free") -> elbo.Model:
    """ln P(z, y) = ln π(z_1) + Σ_t ln A(z_t−1, z_t) + Σ_t ln p(y_t | z_t), posterior a `ChainPosterior`.

    A datum y is one sequence: an array [T, ...], `Frames`, or either of them in an `elbo.Padded`.

    Args:
      states: K.
      emit: `emit(emission, value)`, or `emit(emission, value, input)` where there are inputs: ln p of one frame in
        each state, [K]; by default `emission.log_prob`.
      start: "free": `theta.initial`; "stationary": the stationary distribution of the transitions, and `theta.initial`
        is None. The transitions then have no closed-form M step (use eg_step); the emissions do.

    >>> theta = Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), Categorical(jnp.zeros((2, 5))))
    >>> elbo.evidence(model(2))(elbo.Params.tied(theta), jnp.array([[0, 1, 4]])).tolist()  # −3 ln 5
    [-4.8283]
    """
    _check_start(start)
    joint = Joint(emit, start)
    return elbo.Model(joint, elbo.exact(joint, elbo.chain(states)), usable)


def usable(y: PyTree) -> jax.Array:
    """Whether a sequence can be used: its length is in 1..T, and no frame holds an infinity (NaN: missing)."""
    sequence = elbo.as_padded(y)
    frames, _ = _frames(y)
    present = _present(frames) & sequence.mask()
    infinite = [
        jnp.any(jnp.any(jnp.isinf(a), axis=tuple(range(1, a.ndim))) & present)
        for a in jax.tree.leaves((frames.values, frames.inputs))
        if jnp.issubdtype(a.dtype, jnp.inexact)
    ]
    return sequence.is_sound() & ~jnp.any(jnp.array([False, *infinite]))


@anywhere
def init(
    key: jax.Array,
    ys: PyTree,
    states: int,
    *,
    family: Any = None,
    weights: jax.Array | None = None,
    covariance_type: Covariance = "full",
    stay: float = 0.9,
    start: Start = "free",
) -> elbo.Params:
    """Starting parameters: emissions by k-means++ on all frames, sticky transitions; vmappable over keys.

    Args:
      key: PRNG key.
      ys: a batch of sequences: floating-point frames [N, T, D], or integers [N, T] for a `Categorical` family. Frames
        that are missing, not finite, or such that the family cannot give them, are left out.
      states: K.
      family: the kind of emission, with batch shape (K,), or a `MixtureEmission`; by default `mixture.gaussian` of the
        frames, whose floor is a thousandth of the spread of each column.
      weights: [N], 1 by default, of the sequences; one of weight NaN, infinite or negative is left out.
      covariance_type: of the default family: "full", "tied", "spherical" or "diag".
      stay: probability of staying in a state.
      start: as in `model`.

    >>> params = init(jax.random.key(0), jnp.array([[[0.0], [0.1], [5.0], [5.1]]]), 2)
    >>> jnp.sort(jnp.round(params.theta.emission.mean[:, 0])).tolist()
    [0.0, 5.0]
    """
    _check_start(start)
    batch_length(ys)
    if family is not None:
        require_family(family, getattr(ys.values if isinstance(ys, elbo.Padded) else ys, "inputs", None) is not None)
    return _init(key, ys, states, family, weights, covariance_type, stay, start)


@partial(jax.jit, static_argnames=("states", "start", "covariance_type"))
def _init(key, ys, states, family, weights, covariance_type, stay, start):
    frames, length = jax.vmap(_frames)(ys)
    values = frames.values
    present = jax.vmap(_present)(frames) & (jnp.arange(values.shape[1]) < length[:, None])
    flat, present = values.reshape(-1, *values.shape[2:]), present.reshape(-1)
    kind = family.components if isinstance(family, MixtureEmission) else family
    integers = flat.ndim == 1 and jnp.issubdtype(flat.dtype, jnp.integer)
    real = flat.ndim == 2 and jnp.issubdtype(flat.dtype, jnp.floating)
    if not (integers if isinstance(kind, Categorical) else real):
        raise ValueError(
            f"ys: got frames {values.dtype}{list(values.shape)}, expected floating point [N, T, D] (ys[..., None] for "
            "frames of one number), or integers [N, T] with a Categorical family"
        )
    batch = getattr(kind, "batch_shape", (states,))
    if batch[:1] != (states,):
        raise ValueError(f"family: got batch shape {list(batch)}, expected its first axis to be the {states} states")
    inputs = _flat(frames.inputs)
    present &= of_family.usable(kind, flat, *inputs)
    dtype = kind.logits.dtype if integers else flat.dtype
    weights = jnp.ones(len(values), dtype) if weights is None else jnp.asarray(weights, dtype)
    share = jnp.where(present, jnp.repeat(valid_weights(weights), values.shape[1]), 0)
    share = share / jnp.maximum(jnp.max(share), jnp.finfo(dtype).tiny)
    if integers:
        emission = scattered(key, flat, share, family)
    else:
        emission = clustered(key, flat, share, states, family, inputs, covariance_type)
    first = Categorical(jnp.zeros(states, dtype)) if start == "free" else None
    theta = Theta(first, sticky(states, stay, dtype), emission)
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


def sample(key: jax.Array, theta: Theta, frames: int, *, inputs: PyTree = None) -> tuple[jax.Array, jax.Array]:
    """One draw of states int [T] and what they emit [T, ...]; inputs [T, ...] where the emission has any.

    The first state is drawn from the stationary distribution where `theta.initial` is None.
    """
    if frames < 1:
        raise ValueError(f"frames: got {frames}, expected at least 1")
    if not hasattr(theta.emission, "sample"):
        raise TypeError(
            f"theta.emission: {_name(theta.emission)} has no method sample(key) -> [K, ...]; draw the states with any "
            "family in its place, and what they emit by your own function"
        )
    first_key, step_key, emit_key = jax.random.split(key, 3)

    def step(state, key):
        following = jax.random.categorical(key, theta.transition.logits[state])
        return following, following

    first = first_state(theta).sample(first_key)
    _, rest = jax.lax.scan(step, first, jax.random.split(step_key, frames - 1))
    states = jnp.concatenate([first[None], rest])

    def emit(key, state, *x):
        return jax.tree.map(lambda draws: draws[state], theta.emission.sample(key, *x))

    return states, jax.vmap(emit)(jax.random.split(emit_key, frames), states, *(() if inputs is None else (inputs,)))


def sticky(states: int, stay: float | jax.Array = 0.9, dtype: Any = None) -> Categorical:
    """Transitions that stay with one probability and else go to any other of `states` states alike.

    >>> sticky(3, 0.5).probabilities()[0].tolist()
    [0.5, 0.25, 0.25]
    """
    elbo.numerics.require_number("stay", stay, lambda p: 0 <= p <= 1, "a probability")
    rows = jnp.where(jnp.eye(states, dtype=bool), stay, (1 - stay) / max(states - 1, 1))
    return Categorical.create(rows if dtype is None else rows.astype(dtype))


def left_to_right(states: int, *, stay: float | jax.Array = 0.5, skips: int = 0) -> tuple[Categorical, Categorical]:
    """First state and transitions of a chain that starts in state 0 and never goes back; EM keeps the zeros.

    Args:
      states: K.
      stay: probability of staying; the rest is shared by the next 1 + `skips` states. The last state only stays.
      skips: how many states may be left out.

    >>> left_to_right(3)[1].probabilities().tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    elbo.numerics.require_number("stay", stay, lambda p: 0 <= p <= 1, "a probability")
    ahead = jnp.arange(states)[None] - jnp.arange(states)[:, None]
    forward = ((ahead > 0) & (ahead <= 1 + skips)).astype(float)
    onward = forward.sum(1, keepdims=True)
    rows = jnp.where(
        onward > 0, stay * jnp.eye(states) + (1 - stay) * forward / jnp.maximum(onward, 1), jnp.eye(states)
    )
    return Categorical.create(jnp.eye(states)[0]), Categorical.create(rows)


def first_state(theta: Theta) -> Categorical:
    """The distribution of the first state: `theta.initial`, or where that is None the stationary distribution."""
    return Categorical.create(stationary(theta.transition)) if theta.initial is None else theta.initial


def stationary(transition: Categorical) -> jax.Array:
    """The distribution π with π = π A, [K], by 64 squarings of A (2⁶⁴ steps); for periodic chains, of (A + I) / 2."""
    lazy = 0.5 * (transition.probabilities() + jnp.eye(transition.values, dtype=transition.logits.dtype))

    def square(_, power):
        power = elbo.linalg.matmul(power, power)
        return power / jnp.sum(power, -1, keepdims=True)

    return jnp.mean(jax.lax.fori_loop(0, 64, square, lazy), 0)


def _frames(y: PyTree) -> tuple[Frames, jax.Array]:
    values = y.values if isinstance(y, elbo.Padded) else y
    seen = values.values if isinstance(values, Frames) else values
    if not hasattr(seen, "ndim") or seen.ndim == 0:
        got = f"{jnp.result_type(seen)}[]" if hasattr(seen, "ndim") else _name(seen)
        raise ValueError(
            f"y: got {got} for one sequence, expected an array [T, ...], hmm.Frames, or either in an elbo.Padded. A "
            "batch of sequences is one array [N, T, ...] (one sequence: ys[None]); those of different lengths are "
            "padded to T frames, elbo.Padded(array, lengths)"
        )
    values, length = elbo.as_padded(y)
    return values if isinstance(values, Frames) else Frames(values), length


def _with_stand_ins(present: jax.Array, tree: PyTree) -> PyTree:
    """Frames with the first present one in place of the others: there the emission has a density, and a gradient.

    Any fixed number would have none in some family: the logarithm of 0 is −∞, and its product with weight 0 is NaN. A
    sequence without a present frame gets halves, which most families have a density at, and integers 0.
    """
    first, some = jnp.argmax(present), jnp.any(present)

    def fill(a):
        half = jnp.asarray(0.5 if jnp.issubdtype(a.dtype, jnp.inexact) else 0, a.dtype)
        return jnp.where(present.reshape(-1, *(1,) * (a.ndim - 1)), a, jnp.where(some, a[first], half))

    return jax.tree.map(fill, tree)


def _present(frames: Frames) -> jax.Array:
    """Frames that are not missing, bool [T]: neither their values nor their inputs hold a NaN."""
    present = jnp.ones(frames.values.shape[0], bool) if frames.observed is None else frames.observed
    for a in jax.tree.leaves((frames.values, frames.inputs)):
        if jnp.issubdtype(a.dtype, jnp.inexact):
            present &= ~jnp.any(jnp.isnan(a), axis=tuple(range(1, a.ndim)))
    return present


def _flat(inputs):
    """The inputs [N, T, ...] of a batch of sequences as a tuple of none, or of one pytree of frames."""
    return () if inputs is None else (jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), inputs),)


def _name(a):
    return "None" if a is None else f"a {type(a).__name__}"


def _check_start(start):
    if start not in ("free", "stationary"):
        raise ValueError(f"start: got {start!r}, expected 'free' or 'stationary'")
