"""Trees to test on, and what is known of them: every parse listed."""

from dataclasses import replace
from functools import cache
from itertools import product

import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import Spans, TreePosterior

from .enumeration import Values

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


def values(q: TreePosterior) -> Values:
    """Every parse."""
    length, frames = int(q.length), len(q.tags)
    parts = [np.asarray(a) for a in (q.root, q.rules, q.tags)]
    every = [(parse, z) for parse in listed(length, len(q.rules), q.tags.shape[1]) if (z := arrays(parse, *parts))]
    fill = lambda a, n: np.pad(a, (0, n - len(a)), constant_values=-1)
    padded = [[*(fill(a, frames - 1) for a in parse[:5]), fill(parse.tags, frames)] for parse, _ in every]
    return Values(
        Spans(*(np.stack(a) for a in zip(*padded, strict=True))),
        [np.stack(a) for a in zip(*(z for _, z in every), strict=True)],
    )


def impossible(q: TreePosterior) -> list[TreePosterior]:
    """Of two nonterminals, at least three words, and a root for one word as well."""
    return [
        replace(q, root=jnp.full_like(q.root, -jnp.inf)),
        # every rule has two preterminals, so that only two words have a parse
        replace(q, rules=q.rules.at[:, :2].set(LOG_ZERO).at[:, :, :2].set(LOG_ZERO)),
        replace(q, tags=q.tags.at[2].set(-jnp.inf)),
        replace(q, root=q.root.at[2:].set(LOG_ZERO), length=jnp.array(1, jnp.int32)),
    ]


def wrong(q: TreePosterior) -> list[TreePosterior]:
    """No numbers, and lengths out of range that only a run can see."""
    lengths = [replace(q, length=jnp.array(n, jnp.int32)) for n in (0, len(q.tags) + 1)]
    rules = [replace(q, rules=q.rules.at[1, 2, 0].set(x)) for x in (jnp.nan, jnp.inf)]
    return [replace(q, tags=q.tags.at[1, 1].set(jnp.nan)), *rules, *lengths]


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
