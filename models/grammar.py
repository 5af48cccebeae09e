"""Ordinary grammars and treebanks: their conversion to the normal form of `pcfg`, and of its parses back."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from .families import Categorical
from .grammar_text import Grammar, Side, Tree, brackets, check, is_word, quoted, read, show
from .pcfg import Chained, Theta

__all__ = ["Converted", "Grammar", "Side", "Tree", "brackets", "check", "convert", "from_trees", "read", "show"]


class Converted(NamedTuple):
    """A grammar in normal form, where every sentence has the probability that it had.

    Attributes:
      theta: for `pcfg.model(len(nonterminals), len(preterminals), single=True)`; its rules and emissions are `Chained`,
        so that `pcfg.parse` finds the most probable tree of the grammar as it was written.
      nonterminals, preterminals: names; a symbol that both has children and is a word has its name in both.
      words: the vocabulary.
      chains: (symbol, right-hand side) to the most probable chain of unary rules that ends in that rule.
    """

    theta: Theta
    nonterminals: list[str]
    preterminals: list[str]
    words: list[str]
    chains: dict[tuple[str, Side], tuple[str, ...]]

    def encode(self, sentence: Sequence[str]) -> np.ndarray:
        """Words as integers; −1, which is impossible, for those that the grammar does not know."""
        index = {word: i for i, word in enumerate(self.words)}
        return np.array([index.get(word, -1) for word in sentence])

    def restore(self, spans: Sequence, sentence: Sequence[str]) -> str | None:
        """A parse of one sentence as a tree of the original grammar, in brackets; None if there is no parse.

        Args:
          spans: of `pcfg.parse`, whose tree is the most probable one of the original grammar; or of `pcfg.consensus`,
            whose parents and children need not be a rule: such a node has its own label, and no unary chain above it.
          sentence: its words.
        """
        columns = [np.asarray(a) for a in spans]
        if columns[5].ndim != 1 or not 0 < len(sentence) <= len(columns[5]):
            raise ValueError(
                f"spans, sentence: got tags {list(columns[5].shape)} and {len(sentence)} words, expected the spans of "
                "one sentence, jax.tree.map(lambda a: a[i], spans), and its words"
            )
        if (columns[5][: len(sentence)] < 0).any():
            return None
        rows = iter(zip(*columns[:5], strict=True))
        size = len(self.nonterminals)

        def grow(symbol: int, start: int) -> tuple[list, int]:
            if symbol >= size:
                name, side = self.preterminals[symbol - size], (quoted(sentence[start]),)
                return self._chain(name, side, [sentence[start]]), start + 1
            _, end, _, left, right = next(rows)
            first, middle = grow(left, start)
            second, _ = grow(right, middle)
            names = tuple(self._name(s) for s in (left, right))
            return self._chain(self.nonterminals[symbol], names, first + second), int(end)

        root = columns[2][0] if len(sentence) > 1 else size + columns[5][0]
        trees, _ = grow(int(root), 0)
        return show(trees[0] if len(trees) == 1 and not isinstance(trees[0], str) else (self.nonterminals[0], trees))

    def _name(self, symbol: int) -> str:
        size = len(self.nonterminals)
        return self.nonterminals[symbol] if symbol < size else self.preterminals[symbol - size]

    def _chain(self, name: str, side: Side, children: list) -> list:
        if "|" in name or is_word(name):
            return children  # made by the conversion
        for label in reversed(self.chains.get((name, side), (name,))):
            children = [(label, children)]
        return children


def from_trees(trees: Iterable[str], *, markov: int | None = None) -> Grammar:
    """The grammar of relative frequencies of trees in brackets, `(S (NP (DT the) (NN dog)) (VP (VBZ barks)))`.

    Args:
      trees: all with the same label at the root, the start symbol.
      markov: rules with more than two children are broken up, and each part remembers so many of the children before
        it: fewer symbols, and rules that were never seen become possible. None: rules stay as they are.

    >>> from_trees(["(S (A a) (S (A a) (A b)))"])["A"]
    {("'a'",): 0.6667, ("'b'",): 0.3333}
    """
    counts: dict[str, Counter] = defaultdict(Counter)

    def visit(tree: Tree) -> None:
        label, children = tree
        if "|" in label or is_word(label):
            raise ValueError(f"tree: label {label!r} has a |, or is in quotes: so are symbols made by the conversion")
        side = tuple(quoted(c) if isinstance(c, str) else c[0] for c in children)
        if markov is not None:
            base, memory = label, side
            while len(side) > 2:
                seen = memory[: len(memory) - len(side) + 1][-markov:] if markov else ()
                rest = f"{base}|{' '.join(seen)}"
                counts[label][side[0], rest] += 1
                label, side = rest, side[1:]
        counts[label][side] += 1
        for child in children:
            if not isinstance(child, str):
                visit(child)

    roots: Counter = Counter()
    for text in trees:
        tree = brackets(text)
        roots[tree[0]] += 1
        visit(tree)
    if len(roots) != 1:
        raise ValueError(f"trees: got roots {', '.join(sorted(roots)) or 'none'}, expected one label at every root")
    (start,) = roots
    order = [start, *(label for label in counts if label != start)]
    grammar = {a: {side: n / sum(counts[a].values()) for side, n in counts[a].items()} for a in order}
    check(grammar)
    return grammar


def convert(grammar: Grammar) -> Converted:
    """A grammar in the normal form of `pcfg`: words apart, two children at most, chains of unary rules summed.

    Every sentence keeps its probability: unary cycles are summed exactly, as a geometric series. And the most probable
    tree keeps its own: of each sum, the share of the best chain is kept beside it (`pcfg.Chained`).

    >>> c = convert(read("S -> NP VP [1]" + chr(10) + "NP -> 'she' [1]" + chr(10) + "VP -> 'runs' [1]"))
    >>> c.nonterminals, c.preterminals, c.words
    (['S'], ['NP', 'VP'], ['runs', 'she'])
    >>> spans = [np.array(a) for a in ([0], [2], [0], [1], [2], [0, 1])]  # of elbo.posteriors.Spans
    >>> c.restore(spans, ["she", "runs"])
    '(S (NP she) (VP runs))'
    """
    check(grammar)
    rules = _binary(grammar)
    names = list(rules)
    place = {a: i for i, a in enumerate(names)}
    unary = np.zeros((len(names), len(names)))
    ends: Grammar = defaultdict(dict)
    for a, sides in rules.items():
        for side, p in sides.items():
            if len(side) == 1 and not is_word(side[0]):
                unary[place[a], place[side[0]]] += p
            else:
                ends[a][side] = p
    summed = np.linalg.inv(np.eye(len(names)) - unary)  # `check` knows that every cycle is left
    best, before = _best_chains(unary)
    expanded: dict[str, dict[Side, float]] = {a: defaultdict(float) for a in names}
    chains: dict[tuple[str, Side], tuple[float, tuple[str, ...]]] = {}
    for a in names:
        for y in np.flatnonzero(best[place[a]] > 0).tolist():
            for side, p in ends[names[y]].items():
                expanded[a][side] += summed[place[a], y] * p
                weight = best[place[a], y] * p
                if weight > chains.get((a, side), (0.0, ()))[0]:
                    chains[a, side] = weight, tuple(names[i] for i in _walk(before, place[a], y))
    lexical = {a: sum(p for side, p in sides.items() if len(side) == 1) for a, sides in expanded.items()}
    binary = {a: sum(p for side, p in sides.items() if len(side) == 2) for a, sides in expanded.items()}
    # of those whom chains have made useless, nothing is left
    start, used, waiting = names[0], {names[0]}, [names[0]]
    while waiting:
        new = {b for side in expanded[waiting.pop()] if len(side) == 2 for b in side} - used
        used |= new
        waiting += sorted(new)
    nonterminals = [a for a in names if a in used and binary[a] > 0] or [start]
    preterminals = [a for a in names if a in used and lexical[a] > 0]
    words = sorted({side[0][1:-1] for a in preterminals for side in expanded[a] if len(side) == 1})
    size, tags = len(nonterminals), len(preterminals)
    # a child is written twice, as a nonterminal and as a preterminal, with the share of each
    at = {a: [(nonterminals.index(a), binary[a])] if a in nonterminals and binary[a] > 0 else [] for a in used}
    for i, a in enumerate(preterminals):
        at[a].append((size + i, lexical[a]))
    table, emission = np.zeros((size, size + tags, size + tags)), np.zeros((tags, len(words)))
    of_rules, of_words = np.zeros_like(table), np.zeros_like(emission)  # ln of the best chain's share
    for i, a in enumerate(nonterminals):
        for side, p in expanded[a].items():
            if len(side) == 2:
                for b, share in at[side[0]]:
                    for c, other in at[side[1]]:
                        table[i, b, c] = p * share * other / binary[a]
                        of_rules[i, b, c] = min(np.log(chains[a, side][0] / p), 0)
        if not binary[a]:
            table[i] = 1 / table[i].size  # a grammar of single words
    for i, a in enumerate(preterminals):
        for side, p in expanded[a].items():
            if len(side) == 1:
                emission[i, words.index(side[0][1:-1])] = p / lexical[a]
                of_words[i, words.index(side[0][1:-1])] = min(np.log(chains[a, side][0] / p), 0)
    root = np.zeros(size + tags)
    for i, share in at[start]:
        root[i] += share
    rows = (jnp.asarray(a.reshape(len(a), -1), float) for a in (table, of_rules, emission, of_words))
    rules_, of_rules_, emission_, of_words_ = rows
    theta = Theta(
        Categorical.create(jnp.asarray(root, float)),
        Chained.create(rules_, of_rules_),
        Chained.create(emission_, of_words_),
    )
    return Converted(theta, nonterminals, preterminals, words, {key: chain for key, (_, chain) in chains.items()})


def _binary(grammar: Grammar) -> Grammar:
    """Rules with one or two symbols; in longer ones words become symbols, and the rest of a rule a symbol `|B C`."""
    rules: Grammar = {}
    made: Grammar = {}
    for a, sides in grammar.items():
        rules[a] = defaultdict(float)
        for side, p in sides.items():
            symbols = side
            if len(side) > 1:
                for word in filter(is_word, side):
                    made[word] = {(word,): 1.0}
            while len(symbols) > 2:
                rest = "|" + " ".join(symbols[-2:])
                made[rest] = {symbols[-2:]: 1.0}
                symbols = (*symbols[:-2], rest)
            rules[a][symbols] += p
    return {**rules, **made}


def _best_chains(unary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest product of unary rules from each symbol to each, and the last symbol before the end (−1: itself)."""
    size = len(unary)
    best, before = np.eye(size), np.full((size, size), -1)
    for _ in range(size):
        through = best[:, :, None] * unary[None]
        middle = through.argmax(1)
        value = np.take_along_axis(through, middle[:, None], 1)[:, 0]
        better = value > best * (1 + 1e-12)
        if not better.any():
            break
        best, before = np.where(better, value, best), np.where(better, middle, before)
    return best, before


def _walk(before: np.ndarray, first: int, last: int) -> list[int]:
    chain = [last]
    while chain[-1] != first:
        chain.append(before[first, chain[-1]])
    return chain[::-1]
