"""A parse as an indicator, and as a list of its spans; potentials and marginals of a tree have the first shape."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...numerics import IMPOSSIBLE, LOG_ZERO


class Parse(NamedTuple):
    """The indicator z of a parse, or its mean. Symbols are the N nonterminals, then the P preterminals; S = N + P.

    Attributes:
      root: indicator of the symbol of the whole sentence, [N]; or [S], where one word may be a sentence by itself.
      rules: counts of the rules A -> B C, [N, S, S].
      tags: indicator of the preterminal of each word, [T, P]; rows of the padding are zero.

    >>> Parse(jnp.zeros(2), jnp.zeros((2, 5, 5)), jnp.zeros((4, 3))).sizes
    (4, 2, 3)
    """

    root: jax.Array
    rules: jax.Array
    tags: jax.Array

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, N, P."""
        return (*self.tags.shape[:1], *self.rules.shape[:1], *self.tags.shape[1:])  # type: ignore[return-value]


class Spans(NamedTuple):
    """A parse as the list of its spans of two words and more, parents before children; −1 after the last.

    Attributes:
      start, end: of each span, int [T-1]; the word `end` is the first one that is not in it.
      label: its nonterminal, int [T-1].
      left, right: symbols of its children, int [T-1]: nonterminals 0..N-1, then preterminals N..S-1.
      tags: preterminal of each word, 0..P-1, int [T].
    """

    start: jax.Array
    end: jax.Array
    label: jax.Array
    left: jax.Array
    right: jax.Array
    tags: jax.Array


class Shifted(NamedTuple):
    """Potentials whose maxima are 0, with the root over all symbols, and what that took from each parse, a scalar."""

    root: jax.Array
    rules: jax.Array
    tags: jax.Array
    offset: jax.Array

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, N, P."""
        return Parse(*self[:3]).sizes


def clean(potentials: Parse, length: jax.Array) -> Parse:
    """Log potentials, 0 in the padding, `LOG_ZERO` for −∞ and NaN for ∞; all NaN if the length is not in 1..T."""
    root, rules, tags = (jnp.where(a == jnp.inf, jnp.nan, a) for a in potentials)
    tags = jnp.where((jnp.arange(len(tags)) < length)[:, None], tags, 0)
    root = jnp.where((length >= 1) & (length <= len(tags)), root, jnp.nan)
    return Parse(*(jnp.maximum(a, LOG_ZERO) for a in (root, rules, tags)))


def shift(potentials: Parse, length: jax.Array) -> Shifted:
    """Clean potentials relative to their maxima: every parse has one root, length − 1 rules and a tag for each word.

    So what is taken out is the same for all parses, and a float32 keeps its digits for what tells them apart.
    """
    root, rules, tags = potentials
    missing = rules.shape[1] - root.size
    root = jnp.concatenate([root, jnp.full(missing, LOG_ZERO, root.dtype)]) if missing else root
    pairs = [_relative(root, None), _relative(rules, None), _relative(tags, 1)]
    steps = (length - 1).astype(root.dtype)
    (root, top), (rules, peak), (tags, tops) = pairs
    words = jnp.arange(len(tags)) < length
    return Shifted(root, rules, tags, top + steps * peak + jnp.sum(jnp.where(words, tops[:, 0], 0)))


def _relative(log: jax.Array, axis: int | None) -> tuple[jax.Array, jax.Array]:
    top = jax.lax.stop_gradient(jnp.max(log, axis=axis, keepdims=axis is not None))
    top = jnp.where(top <= IMPOSSIBLE, 0, top)
    return jnp.maximum(log - top, LOG_ZERO), top
