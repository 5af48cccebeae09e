"""Parses by a grammar in Chomsky normal form: the posterior of a probabilistic context-free grammar."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..._sequence import as_padded
from ...numerics import IMPOSSIBLE, LOG_ZERO, widen
from ..derive import affine_potentials
from ..protocol import same_shapes
from ..structured.frames import require_length
from ..structured.log_space import settled_score
from ..structured.posterior import StructuredPosterior
from ..structured.rules import inner
from . import log_space, passes
from .parse import Parse, Spans, clean


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TreePosterior(StructuredPosterior):
    """A distribution of parses: P(z) ∝ exp(root[A] + Σ rules[A, B, C] over the rules used + Σ_t tags[t, a_t]).

    Symbols are N nonterminals 0..N-1, then P preterminals N..S-1. A nonterminal has two children, any symbols; a
    preterminal is one word. One sentence; batches are made by vmap. z is a `Parse`. Log potentials may be any numbers;
    −∞ counts as `LOG_ZERO`. Those of words beyond the length are ignored. A sentence without a parse is an impossible
    datum (see `Posterior`), and no gradient flows through it. So is a sentence of one word, unless the root has
    potentials for preterminals as well.

    Args:
      root: of the symbol of the whole sentence, [N]; or [S], where a sentence may be one preterminal.
      rules: A -> B C, [N, S, S].
      tags: of each word, [T, P].
      length: of the sentence, an int scalar in 1..T, for a parse has a root. A concrete one out of range raises, a
        traced one gives NaN.
      smoothed: (ln Z, marginals, marginals of spans), known beforehand, or None; see `prepared`.

    >>> # all binary trees: Catalan
    >>> q = TreePosterior(jnp.zeros(1), jnp.zeros((1, 2, 2)), jnp.zeros((4, 1)), jnp.array(4))
    >>> jnp.exp(q.log_partition()).tolist(), q.mean().rules.tolist()
    (5.0, [[[0.2, 0.8], [0.8, 1.2]]])
    """

    root: jax.Array
    rules: jax.Array
    tags: jax.Array
    length: jax.Array
    smoothed: tuple[jax.Array, Parse, jax.Array] | None = None
    _log_partition = staticmethod(passes.log_partition)
    _smooth = staticmethod(passes.smooth)

    def spans(self) -> jax.Array:
        """P(words i .. i+w-1 are a constituent A), [T, T+1, N] at [i, w, A]; zeros for w < 2, see `mean` for tags.

        >>> q = TreePosterior(jnp.zeros(1), jnp.zeros((1, 2, 2)), jnp.zeros((3, 1)), jnp.array(3))
        >>> q.spans()[:, :, 0].tolist()
        [[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
        """
        return self._smoothed()[2]

    def best(self) -> tuple[Spans, jax.Array]:
        """Spans of the most probable parse, and its log potential, nats (Viterbi); all −1 and `LOG_ZERO` if none."""
        potentials, length = self._clean()
        spans = log_space.best(potentials, log_space.no_spans(potentials), length)
        possible = jnp.any(spans.tags >= 0)
        score = jnp.where(possible, inner(potentials, self.parse(spans)), LOG_ZERO)
        score = settled_score(score, potentials)
        return jax.tree.map(lambda a: jnp.where(score > IMPOSSIBLE, a, -1), spans), score

    def consensus(self) -> Spans:
        """The tree whose constituents are right most often in expectation: minimum Bayes risk.

        It maximises Σ over its spans of max_A P(span is an A), and each word has its most probable tag. Labels of
        parents and children need not be a rule of the grammar. Goodman, "Parsing algorithms and metrics", ACL 1996.
        """
        potentials, length = self._clean()
        log_z, marginals, spans = self._smoothed()
        frames, _, tags = potentials.sizes
        dtype = potentials.tags.dtype
        # one nonterminal and one preterminal: what is left of the potentials are the scores of the spans
        flat = Parse(jnp.zeros(2, dtype), jnp.zeros((1, 2, 2), dtype), jnp.zeros((frames, 1), dtype))
        found = log_space.best(flat, jnp.max(spans, axis=2, keepdims=True), length)
        labels = jnp.argmax(spans, axis=2).astype(jnp.int32)
        words = jnp.argmax(marginals.tags, axis=1).astype(jnp.int32)

        def symbol(start, end):
            inner = labels[start, end - start]
            return jnp.where(end - start == 1, len(potentials.rules) + words[start], inner)

        middle = _middles(found)
        exists = (found.start >= 0) & (log_z > IMPOSSIBLE)
        sides = symbol(found.start, found.end), symbol(found.start, middle), symbol(middle, found.end)
        parts = (found.start, found.end, *sides)
        known = (jnp.arange(frames) < length) & (log_z > IMPOSSIBLE)
        start, end, label, left, right = (jnp.where(exists, a, -1) for a in parts)
        return Spans(start, end, label, left, right, jnp.where(known, words, -1))

    def sample(self, key: jax.Array) -> Parse:
        """One parse, exactly from P: the chart upwards, in log space, then drawn downwards."""
        potentials, length = self._clean()
        frames, size, tags = potentials.sizes
        dtype = potentials.tags.dtype

        # a key for each number of the padded axes: draws do not depend on the amount of padding
        def draw(key, shape):
            return jax.random.gumbel(key, shape, dtype)

        def keys(key, count):
            return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))

        splits, *children = jax.random.split(key, 3)
        cells = jax.vmap(lambda k: keys(k, frames + 1))(keys(splits, frames))
        noise = (
            jax.vmap(jax.vmap(lambda k: draw(k, ())))(cells),
            *(jax.vmap(lambda k: draw(k, (size + tags,)))(keys(k, frames)) for k in children),
        )
        return self._indicator(*log_space.sample(potentials, length, noise))

    def parse(self, spans: Spans) -> Parse:
        """The indicator of a parse that is given as `Spans`.

        >>> q = TreePosterior(jnp.zeros(2), jnp.zeros((2, 3, 3)), jnp.zeros((2, 1)), jnp.array(2))
        >>> z = q.parse(q.best()[0])
        >>> z.root.tolist(), z.rules[0].tolist()
        ([1.0, 0.0], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        """
        _, length = self._clean()
        size, symbols = self.rules.shape[:2]
        dtype, spans = self.rules.dtype, widen(spans)
        row = jnp.zeros(len(self.tags) - 1)
        same_shapes("spans", spans, Spans(row, row, row, row, row, self.tags[:, 0]))
        label, left, right = (
            jax.nn.one_hot(a, n, dtype=dtype)
            for a, n in ((spans.label, size), (spans.left, symbols), (spans.right, symbols))
        )
        tags = jax.nn.one_hot(spans.tags, symbols - size, dtype=dtype)
        root = jnp.zeros(symbols, dtype)
        root = root.at[size:].set(jnp.where(length == 1, tags[0], 0))
        if len(label):
            root = root.at[:size].set(label[0])
        return Parse(root[: self.root.size], jnp.einsum("ia,ib,ic->abc", label, left, right), tags)

    def _indicate(self, found: Spans) -> Parse:
        return self.parse(found)

    def _clean(self) -> tuple[Parse, jax.Array]:
        _check(self)
        length = jnp.asarray(widen(self.length))
        return clean(Parse(self.root, self.rules, self.tags), length), length


@dataclass(frozen=True)
class tree:  # noqa: N801 - reads as a function: exact(log_joint, tree(10, 20))
    """Structure of a parse by N nonterminals and P preterminals: `tree(N, P)`. log_joint reads a `Parse`.

    The datum is a `Padded` sentence, or a pytree with a leading axis T of full length.

    Args:
      nonterminals: N.
      preterminals: P.
      single: whether one word may be a sentence: the root of z is then [N + P] in place of [N].

    >>> log_joint = lambda z: z.root[0] + 2 * z.rules[0, 0, 1] - jnp.sum(z.rules[:, 0, 0])
    >>> spans, score = tree(1, 1).posterior(log_joint, jnp.zeros((4, 1))).best()
    >>> spans.start.tolist(), spans.end.tolist(), score.tolist()
    ([0, 0, 0], [4, 3, 2], 5.0)
    """

    nonterminals: int
    preterminals: int
    single: bool = False

    def __post_init__(self):
        for name in ("nonterminals", "preterminals"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")

    def posterior(self, log_joint: Callable[[Parse], jax.Array], y: Any = None) -> TreePosterior:
        """The exact posterior: its log potentials are the gradient of log_joint. Raises unless log_joint is affine."""
        if y is None:
            raise ValueError("y: got None, expected a sentence: the number of words is read off it")
        sentence = as_padded(y)
        size, symbols = self.nonterminals, self.nonterminals + self.preterminals
        root = symbols if self.single else size
        shape: Any = Parse((root,), (size, symbols, symbols), (sentence.frames, self.preterminals))  # type: ignore[arg-type]
        potentials = affine_potentials(log_joint, shape)
        return TreePosterior(potentials.root, potentials.rules, potentials.tags, sentence.length)


def _middles(spans: Spans) -> jax.Array:
    """Where the right child of each span begins: the left one, if it is no word (left = 0), is next in the list."""
    after = jnp.append(spans.end, -1)[1:]
    return jnp.where(spans.left == 0, after, spans.start + 1)


def _check(q: TreePosterior) -> None:
    shapes = [jnp.shape(a) for a in (q.root, q.rules, q.tags)]
    frames, tags = shapes[2] if len(shapes[2]) == 2 else (0, 0)
    size = shapes[1][0] if len(shapes[1]) == 3 else 0
    symbols = size + tags
    if min(frames, size, tags) < 1 or shapes[0] not in [(size,), (symbols,)] or shapes[1][1:] != (symbols, symbols):
        raise ValueError(
            f"root, rules, tags: got shapes {[list(s) for s in shapes]}, expected [N] or [S], [N, S, S] and [T, P], "
            "with S = N + P and T, N, P >= 1; use jax.vmap over a batch of sentences"
        )
    dtypes = [jnp.result_type(a) for a in (q.root, q.rules, q.tags)]
    if any(not jnp.issubdtype(d, jnp.floating) for d in dtypes):
        raise ValueError(f"root, rules, tags: got {[str(d) for d in dtypes]}, expected floating-point numbers")
    require_length("length", q.length, 1, frames, "the number of words of tags; drop empty sentences")
