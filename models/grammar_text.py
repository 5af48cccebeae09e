"""Grammars and trees as text: rules as NLTK writes them, trees in brackets."""

import re
from collections.abc import Iterator

Side = tuple[str, ...]
Grammar = dict[str, dict[Side, float]]
"""Symbol to right-hand sides to probabilities; the first symbol is the start. Words are in quotes: `'dog'`."""

Tree = tuple[str, list]
"""A label and its children, trees or words."""

ROUNDING = 0.01  # as in NLTK: probabilities of a symbol that sum to 1 within this were rounded
TOKEN = re.compile(
    r"""\s* (?: '(?P<single>[^']*)' | "(?P<double>[^"]*)" | \[ (?P<number>[^\]]*) \] | (?P<bar>\|) | (?P<comment>\#.*)
    | (?P<symbol> [^\s|\[\]'"\#] [^\s|\[\]"\#]* ) ) \s*""",
    re.VERBOSE,
)


def read(text: str) -> Grammar:
    """A grammar from text, in the way of `nltk.PCFG.fromstring`: lines `A -> B C [0.4] | 'word' [0.6]`.

    One line for a symbol, or for each rule; one that ends in a backslash goes on in the next. Words are in quotes, ' or
    ", and may hold anything else. `#` begins a comment. The start is the symbol of the first line, or that of a
    line `%start S`. Probabilities that sum to 1 within 0.01 are rounded ones, and divided by their sum. A rule of
    probability 0 is left out.

    Raises ValueError with the rule for what is malformed; see `check`. Empty right-hand sides, which NLTK has, are
    refused: every symbol must have words.

    >>> read("S -> 'a' [0.5] | S S [0.5]")
    {'S': {("'a'",): 0.5, ('S', 'S'): 0.5}}
    """
    grammar: Grammar = {}
    start = None
    for line in _lines(text):
        if line.startswith("%"):
            words = line.split()
            if len(words) != 2 or words[0] != "%start":
                raise ValueError(f"line {line!r}: expected a rule, or %start and a symbol")
            start = words[1]
            continue
        left, arrow, right = line.partition("->")
        if not arrow or len(left.split()) != 1:
            raise _malformed(line)
        sides = grammar.setdefault(left.strip(), {})
        for side, probability in _alternatives(right, line):
            sides[side] = sides.get(side, 0.0) + probability
    for a, sides in grammar.items():
        total = sum(sides.values())
        if all(p >= 0 for p in sides.values()) and 0 < abs(total - 1) < ROUNDING:
            grammar[a] = {side: p / total for side, p in sides.items()}
        for side in [side for side, p in sides.items() if p == 0]:
            del grammar[a][side]
    if start is not None:
        if start not in grammar:
            raise ValueError(f"%start {start}: {start} has no rules")
        grammar = {start: grammar[start], **grammar}
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
        if not is_word(b) and b not in grammar:
            raise ValueError(f"rule {rule}: {b} has no rules; a word is written in quotes, '{b}'")
    reached, waiting = {start}, [start]
    while waiting:
        for side in grammar[waiting.pop()]:
            new = {b for b in side if not is_word(b)} - reached
            reached |= new
            waiting += new
    for a in grammar:
        if a not in reached:
            raise ValueError(f"rule {_rule(a, next(iter(grammar[a])))}: {a} cannot be reached from {start}")
    ended: set[str] = set()
    while new := {
        a
        for a, sides in grammar.items()
        if a not in ended and any(all(is_word(b) or b in ended for b in side) for side in sides)
    }:
        ended |= new
    for a in grammar:
        if a not in ended:
            raise ValueError(f"rule {_rule(a, next(iter(grammar[a])))}: {a} never comes to an end in words")


def brackets(text: str) -> Tree:
    """A tree from brackets. Raises ValueError with the text unless it is one tree.

    An outer bracket without a label, as in the Penn treebank, is left out. A backslash before a bracket, a space or
    a backslash makes that a part of a word.

    >>> brackets("(S (A a) (B b))")
    ('S', [('A', ['a']), ('B', ['b'])])
    """
    tokens = re.findall(r"[()]|(?:\\[()\s\\]|[^\s()])+", text)
    stack: list[list] = [[]]
    for i, token in enumerate(tokens):
        if token == "(":
            stack.append([])
        elif token == ")" and len(stack) > 1 and len(stack[-1]) > 1 and isinstance(stack[-1][0], str):
            label, *children = stack.pop()
            stack[-1].append((label, children))
        elif token == ")" and len(stack) == 2 and len(stack[-1]) == 1 and not isinstance(stack[-1][0], str):
            stack[-2].append(stack.pop()[0])
        elif token not in "()" and len(stack) > 1:
            stack[-1].append(re.sub(r"\\([()\s\\])", r"\1", token))
        else:
            raise ValueError(f"tree {text!r}: unexpected {token!r}, the {i + 1}th token")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"tree {text!r}: expected one tree, (LABEL child ...), with its brackets closed")
    return stack[0][0]


def show(tree: Tree) -> str:
    """A tree in brackets, which `brackets` reads.

    >>> show(("N", ["New York", "(NY)"]))
    '(N New\\\\ York \\\\(NY\\\\))'
    """
    label, children = tree
    return f"({label} {' '.join(_escaped(c) if isinstance(c, str) else show(c) for c in children)})"


def quoted(word: str) -> str:
    """A word as a symbol of a grammar."""
    return f"'{word}'"


def is_word(symbol: str) -> bool:
    """Whether a symbol is a word, in quotes."""
    return symbol.startswith("'") and symbol.endswith("'") and len(symbol) > 2


def _escaped(word: str) -> str:
    return re.sub(r"[()\s]|\\(?=[()\s\\]|$)", r"\\\g<0>", word)


def _lines(text: str) -> Iterator[str]:
    before = ""
    for line in text.splitlines():
        line = before + line.strip()
        before = line[:-1].rstrip() + " " if line.endswith("\\") else ""
        if line and not before and not line.startswith("#"):
            yield line
    if before:
        raise ValueError(f"line {before!r}: ends in a backslash, expected another line")


def _alternatives(text: str, line: str) -> Iterator[tuple[Side, float]]:
    side: list[str] = []
    probability = None
    place = 0
    text = text.strip()
    while place < len(text):
        token = TOKEN.match(text, place)
        if token is None:
            raise _malformed(line)
        place, kind, value = token.end(), token.lastgroup, token[token.lastgroup]  # type: ignore[index]
        if kind == "bar" and probability is not None:
            yield tuple(side), probability
            side, probability = [], None
        elif kind == "number" and probability is None:
            try:
                probability = float(value)
            except ValueError:
                raise ValueError(f"rule {line!r}: probability {value!r} is not a number") from None
        elif kind == "symbol" and probability is None:
            side.append(value)
        elif kind in ("single", "double") and probability is None and value:
            side.append(quoted(value))
        elif kind != "comment":
            raise _malformed(line)
    if probability is None:
        raise _malformed(line)
    yield tuple(side), probability


def _malformed(line: str) -> ValueError:
    return ValueError(f"rule {line!r}: expected A -> B C [probability], alternatives separated by |, words in quotes")


def _rule(a: str, side: Side) -> str:
    return f"{a} -> {' '.join(side) or '(nothing)'}"
