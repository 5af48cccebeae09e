"""Probabilistic context-free grammars in Chomsky normal form with separate preterminals.

With m = model(nonterminals, preterminals):

    fit       optim.fit(optim.em_step(m), init(key, nonterminals, preterminals, words), ys).params
    score     elbo.evidence(m)(params, ys), nats, [N]
    parse     parse(m, params, ys) (Viterbi), consensus(m, params, ys) (minimum Bayes risk)
    sample    sample(key, params.theta, frames)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import elbo
from elbo.extend import PyTree, value

from ._questions import each
from .criteria import free_parameters, one_of_each
from .families import Categorical, PseudoData
from .networks import MLP, functional


class Theta(NamedTuple):
    """Parameters of a grammar of N nonterminals and P preterminals; symbols 0..S-1 are first these, then those.

    Attributes:
      root: `Categorical` over the symbol of the whole sentence: N, or S where a sentence may be one word.
      rules: `Categorical` over pairs of symbols, S² values (left · S + right), with batch shape (N,).
      emission: `Categorical` over V words with batch shape (P,).
    """

    root: Categorical
    rules: Categorical
    emission: Categorical

    def free_parameters(self) -> int:
        """See `criteria.free_parameters`."""
        one_of_each(root=(self.root, 0), rules=(self.rules, 1), emission=(self.emission, 1))
        return free_parameters(tuple(self))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chained(Categorical):
    """A `Categorical` over rules each of which stands for several trees: all the chains of unary rules that end in it.

    The sum of a sentence's trees needs no more than that of the chains; the most probable tree needs the best one.

    Args:
      share: ln of the part that the most probable chain has in each probability, [*batch, V], <= 0; moved by nothing.
    """

    share: Any = None
    fixed: ClassVar[tuple[str, ...]] = ("share",)

    @classmethod
    def create(cls, probabilities: jax.Array, share: jax.Array | None = None) -> "Chained":
        """The family with the given probabilities, and what part of them is one chain, [*batch, V]."""
        logits = Categorical.create(probabilities).logits
        return cls(logits, share=jnp.zeros_like(logits) if share is None else share)

    def maximize(self, statistics: jax.Array) -> "Chained":
        """Relative frequencies; the shares stay."""
        return replace(self, logits=super().maximize(statistics).logits, tap=None)


class Parsed(NamedTuple):
    """Most probable parses.

    Attributes:
      spans: `elbo.posteriors.Spans` with a leading axis N.
      score: ln P(parse, y), [N], nats; −∞ where there is no parse.
    """

    spans: elbo.posteriors.Spans
    score: jax.Array


@value
class Joint:
    """The log_joint of `model`; equal where its field is, so that equal models share one compiled program."""

    families: Callable[[PyTree], Theta] | None

    def __call__(self, theta: PyTree, z: elbo.posteriors.Parse, y: PyTree) -> jax.Array:
        """ln P(z, y) of one sentence, nats."""
        theta = theta if self.families is None else self.families(theta)
        counts = z.rules.reshape(len(z.rules), -1)
        used = jax.vmap(lambda row, n: row.log_prob(n))(theta.rules, counts)
        seen = jnp.vdot(z.tags, emissions(theta, y), precision=elbo.PRECISION)
        return theta.root.log_prob(z.root) + jnp.sum(used) + seen


def model(
    nonterminals: int, preterminals: int, *, single: bool = False, families: Callable[[PyTree], Theta] | None = None
) -> elbo.Model:
    """ln P(z, y) = ln P(root) + Σ ln P(A -> B C) over the rules used + Σ_t ln P(y_t | tag_t); a `TreePosterior`.

    A datum y is one sentence: words int [T], or that in an `elbo.Padded`. A word outside of the vocabulary makes the
    sentence impossible. EM on the families is the inside-outside algorithm (Baker 1979; Lari & Young 1990).

    Args:
      nonterminals: N.
      preterminals: P.
      single: whether one word may be a sentence. Without, such sentences are impossible.
      families: `families(theta) -> Theta`, where theta is something else, such as the weights of a network (see
        `neural`; use eg_step).

    >>> theta = Theta(Categorical(jnp.zeros(1)), Categorical(jnp.zeros((1, 4))), Categorical(jnp.zeros((1, 3))))
    >>> elbo.evidence(model(1, 1))(elbo.Params.tied(theta), jnp.array([[0, 2, 1]])).tolist()  # 2 · 4⁻² · 3⁻³
    [-5.3753]
    """
    joint = Joint(families)
    structure = elbo.tree(nonterminals, preterminals, single=single)
    return elbo.Model(joint, elbo.exact(joint, structure), usable)


def emissions(theta: Theta, y: PyTree) -> jax.Array:
    """ln P(word | preterminal) of each word of one sentence, [T, P], nats; 0 in the padding."""
    words, length = _words(y)
    within = jnp.arange(len(words)) < length
    return jnp.where(within[:, None], jax.vmap(theta.emission.log_prob)(jnp.where(within, words, 0)), 0)


def _words(y: PyTree) -> elbo.Padded:
    """One sentence; raises unless it is one of integers."""
    sentence = elbo.as_padded(y)
    words = sentence.values
    if jnp.ndim(words) != 1 or not jnp.issubdtype(jnp.result_type(words), jnp.integer):
        raise ValueError(
            f"y: got {jnp.result_type(words)}{list(jnp.shape(words))}, expected one sentence, integers [T]. A batch is "
            "[N, T]; sentences of different lengths are padded to T words, elbo.Padded(array, lengths)"
        )
    return sentence


def usable(y: PyTree) -> jax.Array:
    """Whether a sentence can be used: its length is in 1..T."""
    return elbo.as_padded(y).is_sound()


def init(
    key: jax.Array,
    nonterminals: int,
    preterminals: int,
    words: int,
    *,
    single: bool = False,
    concentration: float = 1.0,
) -> elbo.Params:
    """Starting parameters, every distribution a draw from a symmetric Dirichlet; vmappable over keys.

    Args:
      key: PRNG key.
      nonterminals, preterminals, words: N, P, V.
      single: as in `model`.
      concentration: of the Dirichlet; the larger, the closer to uniform. EM cannot leave a uniform grammar.

    >>> init(jax.random.key(0), 2, 3, 10).theta.rules.logits.shape
    (2, 25)
    """
    symbols = nonterminals + preterminals
    shapes = (symbols if single else nonterminals,), (nonterminals, symbols**2), (preterminals, words)
    keys = jax.random.split(key, 3)
    logits = [jax.random.loggamma(k, concentration, shape) for k, shape in zip(keys, shapes, strict=True)]
    theta = Theta(*(Categorical(jax.nn.log_softmax(a)) for a in logits))
    return elbo.Params(theta, jax.tree.map(jnp.copy, theta))


def dirichlet(theta: Theta, count: float) -> PyTree:
    """Priors for em_step: a symmetric Dirichlet with concentration 1 + count on each distribution.

    >>> prior = dirichlet(init(jax.random.key(0), 1, 1, 2).theta, 0.5)
    >>> prior.emission.statistics(prior.emission.reference).tolist()
    [[0.5, 0.5]]
    """
    priors: PyTree = [PseudoData(Categorical(0 * f.logits), count * f.values) for f in theta]
    return Theta(*priors)


class Network(nnx.Module):
    """A grammar whose probabilities are functions of embeddings of its symbols.

    Kim, Dyer & Rush, "Compound probabilistic context-free grammars for grammar induction", ACL 2019 (their neural
    PCFG).
    """

    def __init__(self, sizes: tuple[int, int, int], single: bool, width: int, rngs: nnx.Rngs):
        nonterminals, preterminals, words = sizes
        symbols = nonterminals + preterminals
        draw = lambda n: nnx.Param(jax.random.normal(rngs.params(), (n, width)))
        self.start, self.nonterminals, self.preterminals = draw(1), draw(nonterminals), draw(preterminals)
        self.root = MLP((width, width, symbols if single else nonterminals), rngs)
        self.rules = MLP((width, width, symbols**2), rngs)
        self.emission = MLP((width, width, words), rngs)

    def __call__(self) -> Theta:
        """The families."""
        pairs = (self.root, self.start), (self.rules, self.nonterminals), (self.emission, self.preterminals)
        root, rules, emission = (network(embedding[...]) for network, embedding in pairs)
        return Theta(Categorical(root[0]), Categorical(rules), Categorical(emission))


def build(
    key: jax.Array, nonterminals: int, preterminals: int, words: int, *, single: bool = False, width: int = 64
) -> tuple[Callable[[PyTree], Theta], elbo.Params]:
    """A neural grammar: `families` for `model`, and its starting parameters.

    >>> families, params = build(jax.random.key(0), 2, 3, 10)
    >>> families(params.theta).emission.probabilities().shape
    (3, 10)
    """
    families, theta = functional(Network((nonterminals, preterminals, words), single, width, nnx.Rngs(key)))
    return families, elbo.Params(theta, jax.tree.map(jnp.copy, theta))


@partial(jax.jit, static_argnames="model")
def parse(model: elbo.Model, params: elbo.Params, ys: PyTree) -> Parsed:
    """The most probable parse of each sentence (Viterbi); where rules are `Chained`, that of the grammar as written.

    A sentence without a parse has the score −∞, and all its spans and tags are −1.
    """

    def one(params, y):
        q: Any = model.posterior(params, y)
        rules, emission = (getattr(getattr(params.theta, name, None), "share", None) for name in ("rules", "emission"))
        if rules is not None:
            q = replace(q, rules=q.rules + rules.reshape(q.rules.shape))
        if emission is not None:
            words = _words(y).clean().values
            known = (words >= 0) & (words < emission.shape[1])
            q = replace(q, tags=q.tags + jnp.where(known[:, None], emission.T[jnp.where(known, words, 0)], 0))
        return q.best()

    spans, score = each(one, params, ys)
    return Parsed(spans, jnp.where(score <= elbo.numerics.IMPOSSIBLE, -jnp.inf, score))


@partial(jax.jit, static_argnames="model")
def consensus(model: elbo.Model, params: elbo.Params, ys: PyTree) -> elbo.posteriors.Spans:
    """The parse of each sentence with the most constituents expected to be right (minimum Bayes risk)."""
    return each(lambda params, y: model.posterior(params, y).consensus(), params, ys)  # type: ignore[attr-defined]


def sample(key: jax.Array, theta: Theta, frames: int) -> elbo.Padded:
    """One sentence of the grammar, words int [T] with −1 in the padding; length 0 if it would be longer than T.

    >>> rules = Categorical(jnp.array([[-9.0, -9.0, -9.0, 0.0]]))
    >>> theta = Theta(Categorical(jnp.zeros(1)), rules, Categorical(jnp.zeros((1, 1))))
    >>> sample(jax.random.key(0), theta, 3)
    Padded(values=Array([ 0,  0, -1], dtype=int32), length=Array(2, dtype=int32))
    """
    size, symbols = theta.rules.logits.shape[0], round(theta.rules.values**0.5)
    first, *keys = jax.random.split(key, 2 * frames)

    def step(carry, key):
        stack, height, words, count = carry
        going = height > 0
        symbol = stack[height - 1]
        rule_key, word_key = jax.random.split(key)
        word = theta.emission.sample(word_key)[jnp.maximum(symbol - size, 0)]
        rule = theta.rules.sample(rule_key)[jnp.minimum(symbol, size - 1)]
        deep = going & (symbol < size)
        words = words.at[jnp.where(going & ~deep, count, frames)].set(word.astype(jnp.int32), mode="drop")
        count = count + (going & ~deep)
        left, right = (child.astype(jnp.int32) for child in jnp.divmod(rule, symbols))
        stack = stack.at[jnp.where(deep, height - 1, frames)].set(right, mode="drop")
        stack = stack.at[jnp.where(deep, height, frames)].set(left, mode="drop")
        # every symbol that waits is a word at least: too many of them stay where they are, and the sentence is dropped
        height = jnp.where(going, jnp.where(deep, height + 1, height - 1), height)
        return (stack, jnp.minimum(height, frames), words, count), height + count > frames

    stack = jnp.zeros(frames, jnp.int32).at[0].set(theta.root.sample(first).astype(jnp.int32))
    start = stack, jnp.ones((), jnp.int32), jnp.full(frames, -1, jnp.int32), jnp.zeros((), jnp.int32)
    (_, height, words, count), long = jax.lax.scan(step, start, jnp.stack(keys))
    whole = ~jnp.any(long) & (height == 0)
    return elbo.Padded(jnp.where(whole, words, -1), jnp.where(whole, count, 0))
