"""Hidden Markov models with any family, or any function, as emission."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import elbo

from .families import Categorical
from .families.estimate import estimate
from .kmeans import kmeans
from .mixture import gaussian

Tree = Any
Emit = Callable[..., jax.Array]


class Theta(NamedTuple):
    """Parameters of a hidden Markov model of K states.

    Attributes:
      initial: `Categorical` over the first state.
      transition: `Categorical` with batch shape (K,): row i is the state after state i.
      emission: a family with batch shape (K,), or what the model's `emit` reads (the weights of a network, say).
    """

    initial: Categorical
    transition: Categorical
    emission: Any


class Frames(NamedTuple):
    """What is seen of one sequence. A bare array is `Frames(array)`.

    Attributes:
      values: [T, ...], what is emitted. A frame that holds a NaN is missing: it is summed out.
      inputs: [T, ...], what the emission depends on besides the state (regressors, earlier frames), or None.
      observed: bool [T], False for frames that are missing, or None.
    """

    values: jax.Array
    inputs: Tree = None
    observed: jax.Array | None = None


class MixtureEmission(NamedTuple):
    """A mixture of C components in each of K states: ln p(y | k) = ln Σ_c w_kc p_kc(y), with closed-form M steps.

    Attributes:
      weights: `Categorical` over C with batch shape (K,).
      components: a family with batch shape (K, C).
    """

    weights: Categorical
    components: Any

    def log_prob(self, y: jax.Array) -> jax.Array:
        """[K], nats."""
        each = jnp.maximum(self.components.log_prob(y), elbo.LOG_ZERO)
        indicators = jnp.eye(self.weights.values, dtype=each.dtype)
        return jax.nn.logsumexp(each + jax.vmap(self.weights.log_prob, out_axes=1)(indicators), axis=-1)


def emissions(theta: Theta, y: Tree, emit: Emit | None = None) -> jax.Array:
    """ln p(y_t | state) of each frame of one sequence, [T, K], nats; 0 in missing frames and in the padding."""
    frames, length = _frames(y)
    present = _present(frames) & (jnp.arange(frames.values.shape[0]) < length)
    values, inputs = elbo.zero_unless(present, (frames.values, frames.inputs))
    emit = emit or (lambda emission, *args: emission.log_prob(*args))
    args = (values,) if inputs is None else (values, inputs)
    log_p = jax.vmap(lambda *a: emit(theta.emission, *a))(*args)
    # a state so narrow that its squares overflow is impossible, not −inf: 0 · (−inf) is NaN
    # a product, for a choice by frame would keep the compiler from vector instructions in all that reads it
    return jnp.maximum(log_p, elbo.LOG_ZERO) * present[:, None].astype(log_p.dtype)


@elbo.remembered
def model(states: int, emit: Emit | None = None, start: Literal["free", "stationary"] = "free") -> elbo.Model:
    """ln P(z, y) = ln π(z_1) + Σ_t ln A(z_t−1, z_t) + Σ_t ln p(y_t | z_t), with its exact posterior (a `Chain`).

    A datum y is one sequence: an array [T, ...], `Frames`, or either of them in an `elbo.Padded`.

    Args:
      states: K.
      emit: `emit(emission, value)`, or `emit(emission, value, input)` where there are inputs: ln p of one frame in
        each state, [K]; by default `emission.log_prob`.
      start: "free": `theta.initial`; "stationary": the stationary distribution of the transitions, whose M step has no
        closed form (use eg_step).

    >>> theta = Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), Categorical(jnp.zeros((2, 5))))
    >>> elbo.evidence(model(2))(elbo.Params(theta, theta), jnp.array([[0, 1, 4]])).tolist()  # −3 ln 5
    [-4.8283]
    """
    if start not in ("free", "stationary"):
        raise ValueError(f"start: got {start!r}, expected 'free' or 'stationary'")

    def initial(theta):
        if start == "free":
            return theta.initial
        if theta.transition.tap is not None:
            raise TypeError(
                "start: the transitions of a stationary chain have no closed-form M step; use eg_step, or start='free'"
            )
        return Categorical.create(stationary(theta.transition))

    def log_joint(theta: Theta, z: elbo.Path, y: Tree) -> jax.Array:
        steps = jax.vmap(lambda row, counts: row.log_prob(counts))(theta.transition, z.transitions)
        seen = jnp.sum(z.states * emissions(theta, y, emit))
        return initial(theta).log_prob(z.initial) + jnp.sum(steps) + seen

    return elbo.Model(log_joint, elbo.exact(log_joint, elbo.chain(states)), usable)


def usable(y: Tree) -> jax.Array:
    """Whether a sequence can be used: its length is in 1..T, and no frame holds an infinity (NaN: missing)."""
    sequence = elbo.padded(y)
    frames, _ = _frames(y)
    present = _present(frames) & sequence.mask()
    return sequence.is_sound() & elbo.sum_is_finite(elbo.zero_unless(present, (frames.values, frames.inputs)))


@partial(jax.jit, static_argnames="states")
def init(key: jax.Array, ys: Tree, states: int, *, family: Any = None, stay: float = 0.9) -> elbo.Params:
    """Starting parameters: emissions by k-means++ on all frames, sticky transitions; vmappable over keys.

    Args:
      key: PRNG key.
      ys: a batch of sequences: floating-point frames [N, T, D], or integers [N, T] for a `Categorical` family.
      states: K.
      family: the kind of emission, with batch shape (K,); by default a full `MultivariateNormal` whose floor is a
        thousandth of the data's standard deviation.
      stay: probability of staying in a state.

    >>> params = init(jax.random.key(0), jnp.array([[[0.0], [0.1], [5.0], [5.1]]]), 2)
    >>> sorted(params.theta.emission.mean[:, 0].tolist())
    [0.175, 4.925]
    """
    frames, length = jax.vmap(_frames)(ys)
    values = frames.values
    present = jax.vmap(_present)(frames) & (jnp.arange(values.shape[1]) < length[:, None])
    flat, present = values.reshape(-1, *values.shape[2:]), present.reshape(-1)
    if isinstance(family, Categorical):
        emission = _scattered(key, flat, present, family)
    elif flat.ndim == 2 and jnp.issubdtype(flat.dtype, jnp.floating):
        emission = _clustered(key, flat, present, states, family, frames.inputs)
    else:
        raise ValueError(
            f"ys: got frames {values.dtype}{list(values.shape)}, expected floating point [N, T, D], or integers "
            "[N, T] with a Categorical family"
        )
    dtype = jax.tree.leaves(emission)[0].dtype
    start = Categorical(jnp.zeros(states, dtype))
    theta = Theta(start, sticky(states, stay, dtype), emission)
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


def sample(key: jax.Array, theta: Theta, frames: int, *, inputs: Tree = None) -> tuple[jax.Array, jax.Array]:
    """One draw of states int [T] and what they emit [T, ...]; inputs [T, ...] where the emission has any."""
    first_key, step_key, emit_key = jax.random.split(key, 3)

    def step(state, key):
        following = jax.random.categorical(key, theta.transition.logits[state])
        return following, following

    first = theta.initial.sample(first_key)
    _, rest = jax.lax.scan(step, first, jax.random.split(step_key, frames - 1))
    states = jnp.concatenate([first[None], rest])

    def emit(key, state, *x):
        return theta.emission.sample(key, *x)[state]

    return states, jax.vmap(emit)(jax.random.split(emit_key, frames), states, *(() if inputs is None else (inputs,)))


def sticky(states: int, stay: float = 0.9, dtype: Any = None) -> Categorical:
    """Transitions that stay with one probability and else go to any other of `states` states alike.

    >>> sticky(3, 0.5).probabilities()[0].tolist()
    [0.5, 0.25, 0.25]
    """
    rows = jnp.where(jnp.eye(states, dtype=bool), stay, (1 - stay) / max(states - 1, 1))
    return Categorical.create(rows if dtype is None else rows.astype(dtype))


def left_to_right(states: int, *, stay: float = 0.5, skips: int = 0) -> tuple[Categorical, Categorical]:
    """First state and transitions of a chain that starts in state 0 and never goes back; EM keeps the zeros.

    Args:
      states: K.
      stay: probability of staying; the rest is shared by the next 1 + `skips` states. The last state only stays.
      skips: how many states may be left out.

    >>> left_to_right(3)[1].probabilities().tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    ahead = jnp.arange(states)[None] - jnp.arange(states)[:, None]
    forward = ((ahead > 0) & (ahead <= 1 + skips)).astype(float)
    rows = stay * jnp.eye(states) + (1 - stay) * forward / jnp.maximum(forward.sum(1, keepdims=True), 1)
    rows = rows / rows.sum(1, keepdims=True)
    return Categorical.create(jnp.eye(states)[0]), Categorical.create(rows)


def stationary(transition: Categorical) -> jax.Array:
    """The distribution π with π = π A, [K], by 64 squarings of A (2⁶⁴ steps); for periodic chains, of (A + I) / 2."""
    lazy = 0.5 * (transition.probabilities() + jnp.eye(transition.values, dtype=transition.logits.dtype))

    def square(_, power):
        power = elbo.linalg.matmul(power, power)
        return power / jnp.sum(power, -1, keepdims=True)

    return jnp.mean(jax.lax.fori_loop(0, 64, square, lazy), 0)


def _frames(y: Tree) -> tuple[Frames, jax.Array]:
    values, length = elbo.padded(y)
    return values if isinstance(values, Frames) else Frames(values), length


def _present(frames: Frames) -> jax.Array:
    """Frames that are not missing, bool [T]."""
    values = frames.values
    present = jnp.ones(values.shape[0], bool) if frames.observed is None else frames.observed
    if jnp.issubdtype(values.dtype, jnp.inexact):
        present &= ~jnp.any(jnp.isnan(values), axis=tuple(range(1, values.ndim)))
    return present


def _scattered(key, flat, present, family):
    """The frequencies of the values, multiplied in each state by random numbers from a gamma distribution."""
    index = jnp.where(present & (flat >= 0), flat, family.values)
    counts = jnp.zeros(family.values + 1, family.logits.dtype).at[index].add(1)[:-1]
    noise = jnp.log(jax.random.gamma(key, 2.0, family.logits.shape, family.logits.dtype))
    return Categorical(jnp.log(counts + 1) + noise)


def _clustered(key, flat, present, states, family, inputs):
    flat = jnp.where(present[:, None], flat, jnp.nan)
    family = gaussian(flat, states) if family is None else family
    nearest = kmeans(key, flat, states).assignments
    # a state starts as its cluster and a little of everything, so that none starts on a single frame
    member = 0.95 * jax.nn.one_hot(nearest, states, dtype=flat.dtype) + 0.05 / states
    member = jnp.where(present[:, None], member, 0)
    data: tuple = (flat,)
    if inputs is not None:
        data += (jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), inputs),)
    data = elbo.zero_unless(present, data)
    return estimate(estimate(family, jnp.broadcast_to(present[:, None], member.shape), *data), member, *data)
