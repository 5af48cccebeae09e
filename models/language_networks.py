"""Networks over symbols for `latent_lm`: two that predict the next one, and one that reads a text for its states."""

import jax
import jax.numpy as jnp
from flax import nnx

from .networks import MLP


class Emission(nnx.Module):
    """The last n symbols to logits of the next one in each of K states: embeddings and a perceptron.

    Args:
      symbols: V; symbol V stands for what was before the beginning.
      states: K.
      past: n.
      embedding, hidden: widths.
      rngs: `nnx.Rngs(key)`.

    >>> Emission(5, 2, past=3, embedding=4, hidden=(8,), rngs=nnx.Rngs(0))(jnp.array([5, 5, 0])).shape
    (2, 5)
    """

    def __init__(
        self, symbols: int, states: int, *, past: int, embedding: int, hidden: tuple[int, ...], rngs: nnx.Rngs
    ):
        self.shape = (states, symbols)
        self.embed = _table(symbols + 1, embedding, rngs)
        self.layers = MLP((past * embedding, *hidden, states * symbols), rngs)

    def __call__(self, past: jax.Array) -> jax.Array:
        """Int [n] to [K, V]."""
        return self.layers(self.embed[past].reshape(-1)).reshape(self.shape)


class Recurrent(nnx.Module):
    """One step of a recurrent network that reads the latent state as well as the symbol before: h, z_t, y_{t−1} to h.

    Args:
      symbols: V; symbol V stands for what was before the beginning.
      states: K.
      embedding, hidden: widths.
      rngs: `nnx.Rngs(key)`.

    >>> step = Recurrent(5, 2, embedding=4, hidden=8, rngs=nnx.Rngs(0))
    >>> h, logits = step(step.start[...], jnp.array([0.0, 1.0]), jnp.array(5))
    >>> h.shape, logits.shape
    ((8,), (5,))
    """

    def __init__(self, symbols: int, states: int, *, embedding: int, hidden: int, rngs: nnx.Rngs):
        self.embed = _table(symbols + 1, embedding, rngs)
        self.cell = nnx.GRUCell(embedding + states, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden + states, symbols, rngs=rngs)
        self.start = nnx.Param(jnp.zeros(hidden))

    def __call__(self, h: jax.Array, state: jax.Array, previous: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[H], indicator [K], int scalar to [H] and logits [V]."""
        h, _ = self.cell(h, jnp.concatenate([self.embed[previous], state.astype(h.dtype)]))
        return h, self.out(jnp.concatenate([h, state.astype(h.dtype)]))


class Reader(nnx.Module):
    """A whole text to log potentials of the state of each symbol, by two recurrent networks, one in each direction.

    Args:
      symbols: V.
      states: K.
      embedding, hidden: widths.
      rngs: `nnx.Rngs(key)`.

    >>> Reader(5, 2, embedding=4, hidden=8, rngs=nnx.Rngs(0))(jnp.array([0, 1, 0]), jnp.ones(3, bool)).shape
    (3, 2)
    """

    def __init__(self, symbols: int, states: int, *, embedding: int, hidden: int, rngs: nnx.Rngs):
        self.embed = _table(symbols, embedding, rngs)
        self.forwards = nnx.GRUCell(embedding, hidden, rngs=rngs)
        self.backwards = nnx.GRUCell(embedding, hidden, rngs=rngs)
        self.out = nnx.Linear(2 * hidden, states, rngs=rngs)

    def __call__(self, symbols: jax.Array, mask: jax.Array) -> jax.Array:
        """Int [T] and which of them count, bool [T], to [T, K]."""
        x = self.embed[symbols]
        before, after = (_scan(cell, x, mask, r) for cell, r in ((self.forwards, False), (self.backwards, True)))
        return self.out(jnp.concatenate([before, after], axis=-1))


def _table(symbols: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    # nnx.Embed would take float64 parameters down to float32
    return nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (symbols, width)))


def _scan(cell: nnx.GRUCell, x: jax.Array, mask: jax.Array, reverse: bool) -> jax.Array:
    """Hidden states [T, H]; the padding changes none."""

    def step(h, inputs):
        x, counts = inputs
        h = jnp.where(counts, cell(h, x)[0], h)
        return h, h

    start = jnp.zeros(cell.hidden_features, x.dtype)
    return jax.lax.scan(step, start, (x, mask), reverse=reverse)[1]
