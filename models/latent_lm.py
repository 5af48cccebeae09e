"""Language models with a chain of discrete latent states, exact, amortised or sampled; no Gaussian anywhere.

With networks, params = build(key, size) and m = neural_hmm(networks, size):

    fit       optim.fit(optim.minibatches(optim.eg_step(m, optimizer), 128), params, ys, key=key).params
    score     bits_per_symbol(elbo.evidence(m)(params, ys), ys); elbo.elbo for `amortised` and `recurrent`
    decode    hmm_inference.decode(m, params, ys).states
    sample    sample(key, networks, params.theta, size, frames)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import elbo
from elbo.extend import PyTree, value

from .criteria import free_parameters, one_of_each
from .families import Categorical
from .language_networks import Emission, Reader, Recurrent
from .networks import functional


class Size(NamedTuple):
    """What a model of texts is made for.

    Attributes:
      symbols: V; a text is int [T], 0..V−1. V itself stands for what was before the beginning.
      states: K.
      past: n, symbols before y_t that the emission network reads.
    """

    symbols: int
    states: int
    past: int = 4


class Theta(NamedTuple):
    """Parameters of P(z, y).

    Attributes:
      initial: `Categorical` over the first state.
      transition: `Categorical` with batch shape (K,).
      network: of the emissions.
    """

    initial: Categorical
    transition: Categorical
    network: PyTree

    def free_parameters(self) -> int:
        """See `criteria.free_parameters`; the weights of the network count in full."""
        one_of_each(initial=(self.initial, 0), transition=(self.transition, 1))
        return free_parameters(tuple(self))


class Psi(NamedTuple):
    """Parameters of the chain-structured conditional random field q(z | y).

    Attributes:
      initial: log potentials of the first state, [K].
      transition: log potentials of the steps, [K, K].
      network: of the potentials that depend on y.
    """

    initial: jax.Array
    transition: jax.Array
    network: PyTree


class Networks(NamedTuple):
    """Pure functions of parameters; those that a model has no use for are None.

    Attributes:
      emit: `emit(params, past)`: the last n symbols, int [n], to logits of the next in each state, [K, V].
      start: `start(params)`, the first hidden state h of `step`.
      step: `step(params, h, state, previous)`: with z_t, [K], and y_{t−1}, int, to the next h and logits of y_t, [V].
      read: `read(params, symbols, mask)`: int [T], bool [T] to log potentials of the states, [T, K].
    """

    emit: Any = None
    start: Any = None
    step: Any = None
    read: Any = None


def neural_hmm(networks: Networks, size: Size) -> elbo.Model:
    """ln P(z, y) = ln π(z_1) + Σ ln A(z_{t−1}, z_t) + Σ_t ln p(y_t | z_t, y_{t−n..t−1}), with its exact posterior.

    z enters affinely, so the posterior is a `ChainPosterior`, `eg_step` is the rule, and `elbo.evidence` is ln P(y). A
    text is int [T], or that in an `elbo.Padded`. A symbol outside of 0..V−1 makes it impossible, and unusable for the
    rules.

    >>> size = Size(symbols=3, states=2, past=1)
    >>> networks = Networks(emit=lambda params, past: params)
    >>> theta = Theta(Categorical(jnp.zeros(2)), Categorical(jnp.zeros((2, 2))), jnp.zeros((2, 3)))
    >>> elbo.evidence(neural_hmm(networks, size))(elbo.Params.tied(theta), jnp.array([[0, 2]])).tolist()  # −2 ln 3
    [-2.1972]
    """
    joint = AffineJoint(networks, size)
    return elbo.Model(joint, elbo.exact(joint, elbo.chain(size.states)), Usable(size))


def amortised(networks: Networks, size: Size) -> elbo.Model:
    """The model of `neural_hmm` with a network as encoder: q(z | y) ∝ exp ⟨read(y), z⟩, a `ChainPosterior`.

    The bound is exact, through the marginals of q: nothing is sampled, and no key is needed. `vae_step` is the rule.
    """
    return elbo.Model(AffineJoint(networks, size), Encoder(networks, size), Usable(size))


def recurrent(networks: Networks, size: Size) -> elbo.Model:
    """A decoder that reads all states so far, p(y_t | z_1..t, y_1..t−1), by a recurrent network.

    It is not affine in z: no exact expectation exists, and the default estimator says so while tracing. Use
    `vae_step(model, optimizer, estimator=elbo.Automatic(elbo.ScoreFunction(4)))`, which is unbiased and keeps ln P(z)
    exact, or `Relaxed` in place of `ScoreFunction`.
    """
    return elbo.Model(RecurrentJoint(networks, size), Encoder(networks, size), Usable(size))


def build(
    key: jax.Array, size: Size, *, hidden: tuple[int, ...] = (128,), embedding: int = 16, reader: int = 0
) -> tuple[Networks, elbo.Params]:
    """Networks and starting parameters of `neural_hmm`, or, with a reader, of `amortised`.

    Args:
      key: PRNG key.
      size: of the model.
      hidden: widths of the emission network.
      embedding: width of a symbol's embedding.
      reader: width of each direction of the encoder; 0 for the exact posterior.

    >>> networks, params = build(jax.random.key(0), Size(5, 2, 3), hidden=(8,), reader=4)
    >>> model = amortised(networks, Size(5, 2, 3))
    >>> elbo.elbo(model)(params, jnp.zeros((2, 7), int)).shape  # no key
    (2,)
    """
    network_key, reader_key, chain_key = jax.random.split(key, 3)
    module = Emission(
        *(size.symbols, size.states), past=size.past, embedding=embedding, hidden=hidden, rngs=nnx.Rngs(network_key)
    )
    emit, network = functional(module)
    theta = Theta(*_chain(chain_key, size.states), network)
    if not reader:
        return Networks(emit=emit), elbo.Params(theta, jax.tree.map(jnp.copy, theta))
    read, psi = _reader(reader_key, size, theta, embedding, reader)
    return Networks(emit=emit, read=read), elbo.Params(theta, psi)


def build_recurrent(
    key: jax.Array, size: Size, *, hidden: int = 128, embedding: int = 16, reader: int = 64
) -> tuple[Networks, elbo.Params]:
    """Networks and starting parameters of `recurrent`; the arguments are those of `init`, `past` is ignored.

    >>> networks, params = build_recurrent(jax.random.key(0), Size(5, 2), hidden=8, reader=4)
    >>> recurrent(networks, Size(5, 2)).encoder(params.psi, jnp.zeros(7, int)).states.shape
    (7, 2)
    """
    network_key, reader_key, chain_key = jax.random.split(key, 3)
    module = Recurrent(size.symbols, size.states, embedding=embedding, hidden=hidden, rngs=nnx.Rngs(network_key))
    step, network = functional(module)
    theta = Theta(*_chain(chain_key, size.states), network)
    read, psi = _reader(reader_key, size, theta, embedding, reader)
    return Networks(start=_start, step=step, read=read), elbo.Params(theta, psi)


def bits_per_symbol(values: jax.Array, ys: PyTree) -> jax.Array:
    """−Σ values / (ln 2 · Σ lengths), a scalar: of ln P(y) or of bounds on it, [N], in nats.

    >>> bits_per_symbol(jnp.log(jnp.array([0.25, 0.25])), jnp.zeros((2, 2), int)).tolist()
    1.0
    """
    lengths = jax.vmap(lambda y: elbo.as_padded(y).length)(ys)
    return -jnp.sum(values) / (jnp.log(2.0).astype(values.dtype) * jnp.sum(lengths))


def sample(key: jax.Array, networks: Networks, theta: Theta, size: Size, frames: int) -> tuple[jax.Array, jax.Array]:
    """One draw of states int [T] and symbols int [T], of a model with `emit` or with `start` and `step`."""

    def emission(h, state, past):
        if networks.step is None:
            return h, networks.emit(theta.network, past[past.size - size.past :])[state]
        return networks.step(theta.network, h, jax.nn.one_hot(state, size.states), past[-1])

    def advance(carry, key):
        h, log_weights, past = carry
        state_key, symbol_key = jax.random.split(key)
        state = jax.random.categorical(state_key, log_weights)
        h, logits = emission(h, state, past)
        symbol = jax.random.categorical(symbol_key, logits).astype(past.dtype)
        return (h, theta.transition.logits[state], jnp.append(past, symbol)[1:]), (state, symbol)

    past = jnp.full(max(size.past, 1), size.symbols, jnp.int32)
    h = () if networks.start is None else networks.start(theta.network)
    return jax.lax.scan(advance, (h, theta.initial.logits, past), jax.random.split(key, frames))[1]


@value
class AffineJoint:
    """The log_joint of `neural_hmm`; like the classes below equal where its fields are, so that models are values."""

    networks: Networks
    size: Size

    def __call__(self, theta: Theta, z: elbo.posteriors.Path, y: PyTree) -> tuple[jax.Array, jax.Array]:
        """ln P(z) and ln P(y | z) of one text, nats."""
        text, known = _clean(y, self.size)
        past = _past(text.values, self.size.past, self.size)
        logits = jax.vmap(self.networks.emit, (None, 0))(theta.network, past)
        return _log_prior(theta, z), jnp.vdot(z.states, _scores(logits, text, known), precision=elbo.PRECISION)


@value
class RecurrentJoint:
    """The log_joint of `recurrent`."""

    networks: Networks
    size: Size

    def __call__(self, theta: Theta, z: elbo.posteriors.Path, y: PyTree) -> tuple[jax.Array, jax.Array]:
        """ln P(z) and ln P(y | z) of one text, nats."""
        text, known = _clean(y, self.size)
        previous = _past(text.values, 1, self.size)[:, 0]

        def step(h, x):
            return self.networks.step(theta.network, h, *x)

        _, logits = jax.lax.scan(step, self.networks.start(theta.network), (z.states, previous))
        return _log_prior(theta, z), jnp.sum(_scores(logits, text, known))


@value
class Encoder:
    """q(z | y) ∝ exp ⟨read(y), z⟩."""

    networks: Networks
    size: Size

    def __call__(self, psi: Psi, y: PyTree) -> elbo.posteriors.ChainPosterior:
        """The posterior of one text."""
        text, _ = _clean(y, self.size)
        states = self.networks.read(psi.network, text.values, text.mask())
        return elbo.posteriors.ChainPosterior(psi.initial, psi.transition, states, text.length)


@value
class Usable:
    """Whether a text can be used: its length is in 1..T, and all its symbols are some."""

    size: Size

    def __call__(self, y: PyTree) -> jax.Array:
        """A bool scalar."""
        text, known = _clean(y, self.size)
        return text.is_sound() & jnp.all(known)


def _start(params: PyTree) -> jax.Array:
    return params["start"]


def _log_prior(theta: Theta, z: elbo.posteriors.Path) -> jax.Array:
    steps = jax.vmap(lambda row, counts: row.log_prob(counts))(theta.transition, z.transitions)
    return theta.initial.log_prob(z.initial) + jnp.sum(steps)


def _scores(logits: jax.Array, text: elbo.Padded, known: jax.Array) -> jax.Array:
    """ln softmax(logits)[t, ..., y_t], [T, ...]; 0 in the padding, `LOG_ZERO` for a symbol that is none."""
    symbols, mask, known = (a.reshape(-1, *(1,) * (logits.ndim - 2)) for a in (text.values, text.mask(), known))
    # a sum over the vocabulary: the gradient of a gather is a scatter, which is slow on a CPU
    chosen = jnp.sum(jnp.where(symbols[..., None] == jnp.arange(logits.shape[-1]), logits, 0), axis=-1)
    return jnp.where(mask, jnp.where(known, chosen - jax.nn.logsumexp(logits, axis=-1), elbo.LOG_ZERO), 0)


def _clean(y: PyTree, size: Size) -> tuple[elbo.Padded, jax.Array]:
    """A text with zeros for its padding and for symbols that are none, and which symbols are some, bool [T]."""
    text = elbo.as_padded(y).clean()
    if text.values.ndim != 1 or not jnp.issubdtype(text.values.dtype, jnp.integer):
        raise ValueError(
            f"y: got {text.values.dtype}{list(text.values.shape)}, expected one text, integers [T]; use jax.vmap, or "
            "what takes ys, over a batch of texts"
        )
    known = (text.values >= 0) & (text.values < size.symbols)
    return text._replace(values=jnp.where(known, text.values, 0).astype(jnp.int32)), known


def _past(symbols: jax.Array, count: int, size: Size) -> jax.Array:
    """The `count` symbols before each one, [T, count], the nearest last."""
    before = jnp.concatenate([jnp.full(count, size.symbols, symbols.dtype), symbols])
    return before[jnp.arange(symbols.size)[:, None] + jnp.arange(count)]


def _chain(key: jax.Array, states: int) -> tuple[Categorical, Categorical]:
    return Categorical(jnp.zeros(states)), Categorical(0.5 * jax.random.normal(key, (states, states)))


def _reader(key: jax.Array, size: Size, theta: Theta, embedding: int, hidden: int) -> tuple[Callable, Psi]:
    module = Reader(size.symbols, size.states, embedding=embedding, hidden=hidden, rngs=nnx.Rngs(key))
    read, network = functional(module)
    # the steps start as those of the prior
    return read, Psi(jnp.zeros(size.states), jax.nn.log_softmax(theta.transition.logits), network)
