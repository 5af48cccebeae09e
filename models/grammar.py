"""Ordinary grammars and treebanks: their conversion to the normal form of `pcfg`, and of its parses back."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from .families import Categorical
from .pcfg import Theta

Side = tuple[str, ...]
Grammar = dict[str, dict[Side, float]]
"""Symbol to right-hand sides to probabilities; the first symbol is the start. Words are in quotes: `'dog'`."""

Tree = tuple[str, list]
"""A label and its children, trees or words."""


class Converted(NamedTuple):
    """A grammar in normal form, where every sentence has the probability that it had.

    Attributes:
      theta: for `pcfg.model(len(nonterminals), len(preterminals), single=True)`.
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

        Unary chains are summed over in the normal form; of these the most probable is written.
        """
        columns = [np.asarray(a) for a in spans]
        if (columns[5][: len(sentence)] < 0).any():
            return None
        rows = iter(zip(*columns[:5], strict=True))
        size = len(self.nonterminals)

        def grow(symbol: int, start: int) -> tuple[list, int]:
            if symbol >= size:
                name, side = self.preterminals[symbol - size], (_quoted(sentence[start]),)
                return self._chain(name, side, [sentence[start]]), start + 1
            _, end, _, left, right = next(rows)
            first, middle = grow(left, start)
            second, _ = grow(right, middle)
            names = tuple(self._name(s) for s in (left, right))
            return self._chain(self.nonterminals[symbol], names, first + second), int(end)

        root = columns[2][0] if len(sentence) > 1 else size + columns[5][0]
        (tree,), _ = grow(int(root), 0)
        return show(tree)

    def _name(self, symbol: int) -> str:
        size = len(self.nonterminals)
        return self.nonterminals[symbol] if symbol < size else self.preterminals[symbol - size]

    def _chain(self, name: str, side: Side, children: list) -> list:
        if "|" in name or name.startswith("'"):
            return children  # made by the conversion
        for label in reversed(self.chains[name, side]):
            children = [(label, children)]
        return children


def read(text: str) -> Grammar:
    """A grammar from text: a line `A -> B C [0.4] | 'word' [0.6]` for each symbol or rule; `#` begins a comment.

    Raises ValueError with the rule for what is malformed; see `check`.

    >>> read("S -> 'a' [0.5] | S S [0.5]")
    {'S': {("'a'",): 0.5, ('S', 'S'): 0.5}}
    """
    grammar: Grammar = {}
    for line in text.splitlines():
        line = re.sub(r"(?<!')#.*", "", line).strip()
        if not line:
            continue
        left, arrow, right = line.partition("->")
        for part in re.split(r"\|(?!')", right):
            found = re.fullmatch(r"\s*(.*?)\s*\[\s*([^\]\s]+)\s*\]\s*", part)
            if not arrow or len(left.split()) != 1 or found is None:
                raise ValueError(f"rule {line!r}: expected A -> B C [probability], alternatives separated by |")
            try:
                probability = float(found[2])
            except ValueError:
                raise ValueError(f"rule {line!r}: probability {found[2]!r} is not a number") from None
            sides = grammar.setdefault(left.strip(), {})
            side = tuple(found[1].split())
            sides[side] = sides.get(side, 0.0) + probability
    check(grammar)
    return grammar


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
        if "|" in label:
            raise ValueError(f"tree: label {label!r} has a |, which marks symbols made by the conversion")
        side = tuple(_quoted(c) if isinstance(c, str) else c[0] for c in children)
        if markov is not None:
            base, memory = label, side
            while len(side) > 2:
                seen = memory[: len(memory) - len(side) + 1][-markov:] if markov else ()
                rest = f"{base}|{'-'.join(seen)}"
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


def check(grammar: Grammar) -> None:
    """Raises ValueError, naming the rule, unless a grammar is proper and each symbol can be reached and ended."""
    if not grammar:
        raise ValueError("grammar: no rules")
    start = next(iter(grammar))
    users: dict[str, str] = {}
    for a, sides in grammar.items():
        for side, p in sides.items():
            if not side:
                raise ValueError(f"rule {_rule(a, side)}: an empty right-hand side; every symbol must have words")
            if not 0 < p <= 1 + 1e-6:
                raise ValueError(f"rule {_rule(a, side)}: probability {p:g}, expected 0 < p <= 1")
            for b in side:
                users.setdefault(b, _rule(a, side))
        total = sum(sides.values())
        if abs(total - 1) > 1e-6:
            rules = "; ".join(f"{_rule(a, side)} [{p:g}]" for side, p in sides.items())
            raise ValueError(f"rules of {a}: probabilities sum to {total:g}, expected 1: {rules}")
    for b, rule in users.items():
        if not _is_word(b) and b not in grammar:
            raise ValueError(f"rule {rule}: {b} has no rules; a word is written in quotes, '{b}'")
    reached, waiting = {start}, [start]
    while waiting:
        for side in grammar[waiting.pop()]:
            new = {b for b in side if not _is_word(b)} - reached
            reached |= new
            waiting += new
    for a in grammar:
        if a not in reached:
            raise ValueError(f"rule {_rule(a, next(iter(grammar[a])))}: {a} cannot be reached from {start}")
    ended: set[str] = set()
    while new := {
        a
        for a, sides in grammar.items()
        if a not in ended and any(all(_is_word(b) or b in ended for b in side) for side in sides)
    }:
        ended |= new
    for a in grammar:
        if a not in ended:
            raise ValueError(f"rule {_rule(a, next(iter(grammar[a])))}: {a} never comes to an end in words")


def convert(grammar: Grammar) -> Converted:
    """A grammar in the normal form of `pcfg`: words apart, two children at most, chains of unary rules summed.

    Every sentence keeps its probability. Unary cycles are summed exactly, as a geometric series.

    >>> c = convert(read("S -> NP VP [1]" + chr(10) + "NP -> 'she' [1]" + chr(10) + "VP -> 'runs' [1]"))
    >>> c.nonterminals, c.preterminals, c.words
    (['S'], ['NP', 'VP'], ['runs', 'she'])
    >>> spans = [np.array(a) for a in ([0], [2], [0], [1], [2], [0, 1])]  # of elbo.Spans
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
            if len(side) == 1 and not _is_word(side[0]):
                unary[place[a], place[side[0]]] += p
            else:
                ends[a][side] = p
    summed = np.linalg.inv(np.eye(len(names)) - unary)  # `check` knows that every cycle is left
    best, before = _best_chains(unary)
    expanded: dict[str, dict[Side, float]] = {a: defaultdict(float) for a in names}
    chains: dict[tuple[str, Side], tuple[float, tuple[str, ...]]] = {}
    for a in names:
        for y in np.flatnonzero(summed[place[a]] > 0).tolist():
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
    table = np.zeros((size, size + tags, size + tags))
    emission = np.zeros((tags, len(words)))
    for i, a in enumerate(nonterminals):
        for side, p in expanded[a].items():
            if len(side) == 2:
                for b, share in at[side[0]]:
                    for c, other in at[side[1]]:
                        table[i, b, c] += p * share * other / binary[a]
        if not binary[a]:
            table[i] = 1 / table[i].size  # a grammar of single words
    for i, a in enumerate(preterminals):
        for side, p in expanded[a].items():
            if len(side) == 1:
                emission[i, words.index(side[0][1:-1])] += p / lexical[a]
    root = np.zeros(size + tags)
    for i, share in at[start]:
        root[i] += share
    families = (Categorical.create(jnp.asarray(a, float)) for a in (root, table.reshape(size, -1), emission))
    return Converted(
        Theta(*families), nonterminals, preterminals, words, {key: chain for key, (_, chain) in chains.items()}
    )


def brackets(text: str) -> Tree:
    """A tree from brackets. Raises ValueError with the text unless it is one tree.

    >>> brackets("(S (A a) (B b))")
    ('S', [('A', ['a']), ('B', ['b'])])
    """
    tokens = re.findall(r"[()]|[^\s()]+", text)
    stack: list[list] = [[]]
    for i, token in enumerate(tokens):
        if token == "(":
            stack.append([])
        elif token == ")" and len(stack) > 1 and len(stack[-1]) > 1 and isinstance(stack[-1][0], str):
            label, *children = stack.pop()
            stack[-1].append((label, children))
        elif token not in "()" and len(stack) > 1:
            stack[-1].append(token)
        else:
            raise ValueError(f"tree {text!r}: unexpected {token!r}, the {i + 1}th token")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"tree {text!r}: expected one tree, (LABEL child ...), with its brackets closed")
    return stack[0][0]


def show(tree: Tree) -> str:
    """A tree in brackets."""
    label, children = tree
    return f"({label} {' '.join(c if isinstance(c, str) else show(c) for c in children)})"


def _binary(grammar: Grammar) -> Grammar:
    """Rules with one or two symbols; in longer ones words become symbols, and the rest of a rule a symbol `|B C`."""
    rules: Grammar = {}
    made: Grammar = {}
    for a, sides in grammar.items():
        rules[a] = defaultdict(float)
        for side, p in sides.items():
            symbols = side
            if len(side) > 1:
                for word in filter(_is_word, side):
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


def _quoted(word: str) -> str:
    return f"'{word}'"


def _is_word(symbol: str) -> bool:
    return symbol.startswith("'") and symbol.endswith("'") and len(symbol) > 2


def _rule(a: str, side: Side) -> str:
    return f"{a} -> {' '.join(side) or '(nothing)'}"
