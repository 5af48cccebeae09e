"""Trees to test on, and what is known of them: every parse listed."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import Spans, TreePosterior

SIZES = 6, 3, 2  # words, nonterminals, preterminals of the grammars that rescaling is tried on


def random_tree(seed, frames, nonterminals, preterminals, *, length=None, spread=1.0, single=False) -> TreePosterior:
    """Potentials with NaN in the padding."""
    length = frames if length is None else length
    rng = np.random.default_rng(seed)
    symbols = nonterminals + preterminals
    root = spread * rng.normal(size=symbols if single else nonterminals)
    rules = spread * rng.normal(size=(nonterminals, symbols, symbols))
    tags = spread * rng.normal(size=(frames, preterminals))
    tags[length:] = np.nan
    return TreePosterior(jnp.asarray(root), jnp.asarray(rules), jnp.asarray(tags), jnp.asarray(length, jnp.int32))


@cache
def shapes(start, end) -> list:
    """All binary trees over words start..end-1: a word is its number, a node (start, end, left, right)."""
    if end - start == 1:
        return [start]
    return [
        (start, end, left, right)
        for middle in range(start + 1, end)
        for left in shapes(start, middle)
        for right in shapes(middle, end)
    ]


def nodes(shape) -> list:
    """Inner nodes, parents before children."""
    return [] if isinstance(shape, int) else [shape, *nodes(shape[2]), *nodes(shape[3])]


@cache
def listed(length, nonterminals, preterminals) -> list[Spans]:
    """Every parse of a sentence of so many words."""
    found = []
    for shape in shapes(0, length):
        inner = nodes(shape)
        place = {id(node): i for i, node in enumerate(inner)}
        for labels in product(range(nonterminals), repeat=len(inner)):
            for tags in product(range(preterminals), repeat=length):

                def symbol(child, labels=labels, tags=tags, place=place):
                    return nonterminals + tags[child] if isinstance(child, int) else labels[place[id(child)]]

                rows = [(n[0], n[1], a, symbol(n[2]), symbol(n[3])) for n, a in zip(inner, labels, strict=True)]
                columns = np.array(rows, int).reshape(-1, 5).T
                found.append(Spans(*columns, np.array(tags)))
    return found


def arrays(parse: Spans, root, rules, tags) -> tuple:
    """The indicator of a parse."""
    z = np.zeros(np.shape(root)), np.zeros(np.shape(rules)), np.zeros(np.shape(tags))
    size = len(z[1])
    top = parse.label[0] if len(parse.label) else size + parse.tags[0]
    if top >= len(z[0]):
        return None  # a word is no sentence
    z[0][top] = 1
    np.add.at(z[1], (parse.label, parse.left, parse.right), 1)
    z[2][np.arange(len(parse.tags)), parse.tags] = 1
    return z


def enumerated(q: TreePosterior) -> dict:
    """Everything about a tree from the list of its parses."""
    length, size = int(q.length), len(q.rules)
    potentials = [np.asarray(a, np.float64) for a in (q.root, q.rules, q.tags)]
    potentials[2] = np.where(np.arange(len(q.tags))[:, None] < length, potentials[2], 0)
    every = listed(length, size, q.tags.shape[1])
    kept = [(p, z) for p in every if (z := arrays(p, *potentials)) is not None]
    weight = np.array([sum(np.sum(z * a) for z, a in zip(zs, potentials, strict=True)) for _, zs in kept])
    if not len(weight) or weight.max() <= 1e-6 * LOG_ZERO:
        return {"log_partition": -np.inf}
    log_z = np.log(np.exp(weight - weight.max()).sum()) + weight.max()
    p = np.exp(weight - log_z)
    mean = [np.tensordot(p, np.stack([zs[i] for _, zs in kept]), 1) for i in range(3)]
    frames = len(q.tags)
    spans = np.zeros((frames, frames + 1, size))
    for share, (parse, _) in zip(p, kept, strict=True):
        np.add.at(spans, (parse.start, parse.end - parse.start, parse.label), share)
    scores = spans.max(2)
    risks = [sum(scores[n[0], n[1] - n[0]] for n in nodes(s)) for s in shapes(0, length)]
    return {
        "parses": [parse for parse, _ in kept],
        "p": p,
        "log_partition": log_z,
        "mean": mean,
        "spans": spans,
        "entropy": -np.sum(p * np.log(np.where(p > 0, p, 1))),
        "best": kept[int(weight.argmax())][0],
        "score": weight.max(),
        "consensus": {(n[0], n[1]) for n in nodes(shapes(0, length)[int(np.argmax(risks))])},
    }


def padded_spans(parse: Spans, frames: int) -> Spans:
    """The same parse in arrays for `frames` words."""
    fill = lambda a, n: jnp.asarray(np.pad(a, (0, n - len(a)), constant_values=-1), jnp.int32)
    return Spans(*(fill(a, frames - 1) for a in parse[:5]), fill(parse.tags, frames))


def stack(trees) -> TreePosterior:
    """A batch of trees of one shape."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def finisher(rng, gap):
    """A nonterminal that is behind by the gap in every span, and is the only one that the root accepts."""
    frames, size, tags = SIZES
    rules = rng.normal(size=(size, size + tags, size + tags))
    rules[-1] -= gap
    root = np.array([LOG_ZERO] * (size - 1) + [0.0])
    return root, rules, rng.normal(size=(frames, tags))


def reversing(rng, gap):
    """Two grammars that share no symbol; now one is ahead by the gap, now the other."""
    frames, size, tags = SIZES
    block = np.concatenate([np.arange(size) % 2, np.arange(tags) % 2])
    same = (block[:size, None, None] == block[None, :, None]) & (block[None, :, None] == block)
    rules = np.where(same, rng.normal(size=same.shape), LOG_ZERO)
    lead = gap * rng.choice([-1, 1, 2.5, -2.5], size=frames)
    return rng.normal(size=size), rules, rng.normal(size=(frames, tags)) + np.outer(lead, np.arange(tags) % 2)


def hard_zeros(rng, gap):
    """Zeros in every place; often no parse is left."""
    frames, size, tags = SIZES
    draw = lambda share, *shape: np.where(rng.random(shape) < share, LOG_ZERO, gap / 10 * rng.normal(size=shape))
    return draw(0.3, size), draw(0.7, size, size + tags, size + tags), draw(0.3, frames, tags)


def rough(rng, gap):
    """Everything is possible, hardly anything is probable."""
    frames, size, tags = SIZES
    draw = lambda *shape: -gap * rng.random(shape) ** 3
    return draw(size), draw(size, size + tags, size + tags), draw(frames, tags)
