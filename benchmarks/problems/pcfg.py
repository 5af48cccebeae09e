"""Parse trees: ln Z of sentences by the inside pass, and the marginals of rules and tags."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo

from .. import measure
from ..peers import Contender, reference_tree
from .problem import Problem, Target


class Forest(NamedTuple):
    """Log potentials of a grammar and of the words of sentences, float32: [N], [N, S, S], [B, T, P]."""

    root: np.ndarray
    rules: np.ndarray
    tags: np.ndarray


def make_forest(count: int, frames: int, nonterminals: int, preterminals: int, words: int = 1000) -> Forest:
    """A random grammar that is normalised, and sentences of random words."""
    rng = np.random.default_rng(0)
    symbols = nonterminals + preterminals

    def log_softmax(*shape):
        logits = rng.standard_normal(shape)
        return (logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))).astype(np.float32)

    root, rules, emission = (
        log_softmax(*shape) for shape in ((nonterminals,), (nonterminals, symbols**2), (preterminals, words))
    )
    tags = emission.T[rng.integers(words, size=(count, frames))]
    return Forest(root, rules.reshape(nonterminals, symbols, symbols), tags)


def our_inside(data: Forest) -> Contender:
    """`log_partition` of each sentence."""
    return _contender(data, lambda q: {"ln Z": q.log_partition()})


def our_marginals(data: Forest) -> Contender:
    """`log_partition` and `mean` of each sentence."""

    def both(q):
        q = q.prepared()
        return {"ln Z": q.log_partition(), "marginals": tuple(q.mean())}

    return _contender(data, both)


def _contender(data: Forest, ask) -> Contender:
    root, rules, tags = (jnp.asarray(a) for a in data)
    length = jnp.asarray(tags.shape[1], jnp.int32)

    def program(root, rules, tags):
        return jax.vmap(lambda t: ask(elbo.posteriors.TreePosterior(root, rules, t, length)))(tags)

    compiled = measure.compile_program(jax.jit(program), root, rules, tags)

    def answer():
        return jax.tree.map(np.asarray, compiled.call(root, rules, tags))

    return Contender("elbo", "", answer, measure.repeated(compiled.call, root, rules, tags), compiled)


def inside_flops(data: Forest) -> float:
    """Pairs of children summed over splits, rules applied to them once a span; words apart."""
    (count, frames, tags), size = data.tags.shape, len(data.root)
    widths = np.arange(3, frames + 1)
    spans = np.sum(frames + 1 - widths)
    splits = np.sum((frames + 1 - widths) * np.maximum(widths - 3, 0))
    inner = splits * size**2 + spans * (size**3 + 2 * size**2)
    words = frames * (2 * size**2 * tags + size * tags**2)
    return 2.0 * count * float(inner + words)


_TINY = dict(count=2, frames=6, nonterminals=3, preterminals=2)
_SMALL = dict(count=8, frames=20, nonterminals=10, preterminals=20)
_LARGE = dict(count=4, frames=40, nonterminals=30, preterminals=60)
_INSIDE = dict(
    unit="call",
    task="inside",
    make=make_forest,
    tiny=_TINY,
    ours=our_inside,
    reference=lambda data: {"ln Z": reference_tree.sentences(data)["ln Z"]},
    tolerance={"ln Z": 1e-5},
    flops=inside_flops,
    counted="pairs of children, rules, words, for the widths of each sentence",
    peers=("torch-struct",),
)
_MARGINALS = {
    **_INSIDE,
    "task": "tree_marginals",
    "ours": our_marginals,
    "reference": reference_tree.sentences,
    "tolerance": {"ln Z": 1e-5, "marginals": 1e-4},
    "flops": lambda data: 3.0 * inside_flops(data),
    "counted": "three times the inside pass",
}
_TEXT = {"small": "8 sentences of 20 words, 10 nonterminals, 20 preterminals"}
_TEXT["large"] = "4 sentences of 40 words, 30 nonterminals, 60 preterminals"

PARSES = (
    Problem(
        name="pcfg-inside",
        description=f"PCFG, ln P, {_TEXT['small']}",
        sizes=_SMALL,
        targets=(Target("3x the best peer", 3),),
        **_INSIDE,
    ),
    Problem(
        name="pcfg-marginals",
        description=f"PCFG, ln P and marginals, {_TEXT['small']}",
        sizes=_SMALL,
        targets=(Target("3x the best peer", 3),),
        **_MARGINALS,
    ),
    Problem(
        name="pcfg-inside-large",
        description=f"PCFG, ln P, {_TEXT['large']}",
        sizes=_LARGE,
        targets=(Target("4x the best peer", 4),),
        **_INSIDE,
    ),
    Problem(
        name="pcfg-marginals-large",
        description=f"PCFG, ln P and marginals, {_TEXT['large']}",
        sizes=_LARGE,
        targets=(Target("4x the best peer", 4),),
        **_MARGINALS,
    ),
)
