"""Ordinary grammars: sentences keep their probabilities in the normal form, parses come back, mistakes are named."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from elbo.models import grammar, pcfg

# unary chains and a cycle, long right-hand sides, words among symbols, a symbol that is both a word and a phrase
TEXT = """
S -> NP VP [0.5] | VP [0.2] | NP 'and' NP VP [0.3]   # four symbols, one of them a word
NP -> N [0.6] | NP N [0.2] | VP [0.2]
VP -> V [0.7] | V NP [0.2] | NP [0.1]
N -> 'a' [0.5] | 'b' [0.5]
V -> 'a' [1.0]
"""


def derivations(rules, symbol, words, plus=sum, depth=40):
    """P(symbol ⇒ words) of a grammar as it is written: a fixed point over all spans, unary rules included.

    With `max` for `plus` that of the most probable tree.
    """
    known = {}

    def value(a, i, j):
        if a.startswith("'"):
            return float(j - i == 1 and a[1:-1] == words[i])
        return known.get((a, i, j), 0.0)

    def side_value(side, i, j):
        if len(side) == 1:
            return value(side[0], i, j)
        return plus(
            [0.0, *(value(side[0], i, k) * side_value(side[1:], k, j) for k in range(i + 1, j - len(side) + 2))]
        )

    for _ in range(depth * len(words)):
        known = {
            (a, i, j): plus([p * side_value(side, i, j) for side, p in rules[a].items()])
            for a in rules
            for i in range(len(words))
            for j in range(i + 1, len(words) + 1)
        }
    return value(symbol, 0, len(words))


def sentences(words, longest):
    return [s for n in range(1, longest + 1) for s in product(words, repeat=n)]


def evidence(found, every):
    frames = max(map(len, every))
    model = pcfg.model(len(found.nonterminals), len(found.preterminals), single=True)
    rows = np.stack([np.pad(found.encode(s), (0, frames - len(s))) for s in every])
    ys = elbo.Padded(jnp.asarray(rows), jnp.array([len(s) for s in every]))
    log_p = elbo.evidence(model)(elbo.Params.tied(found.theta), ys)
    return np.exp(log_p), jax.device_get(pcfg.parse(model, elbo.Params(found.theta), ys))


# the sum of four chains is larger than the best tree, each of them is not; the same for a word alone
MANY = """
S -> U1 [0.15] | U2 [0.15] | U3 [0.15] | U4 [0.15] | R T [0.4]
U1 -> P Q [1.0]
U2 -> P Q [1.0]
U3 -> P Q [0.9] | W [0.1]
U4 -> P Q [1.0]
P -> 'a' [0.5] | 'b' [0.5]
Q -> W [0.3] | 'a' [0.3] | 'b' [0.4]
R -> 'a' [0.6] | 'b' [0.4]
T -> 'b' [0.5] | 'a' [0.5]
W -> 'a' [0.4] | W W [0.2] | Q [0.4]
"""


@pytest.mark.parametrize("text", [TEXT, MANY], ids=["written", "many chains"])
def test_sentences_keep_their_probabilities_and_parses_come_back(text, x64):
    rules = grammar.read(text)
    found = grammar.convert(rules)
    for family in found.theta:
        np.testing.assert_allclose(family.probabilities().sum(-1), 1, atol=1e-12)
    every = [s for s in sentences(["a", "b", "and"], 4 - (text == MANY)) if s.count("and") < 2]
    p, parsed = evidence(found, every)
    expected = [derivations(rules, "S", s) for s in every]
    np.testing.assert_allclose(p, expected, atol=1e-12)
    assert (p > 0).sum() > 12 and (p == 0).any()
    if text == MANY:
        index = every.index(("a", "b"))
        best = found.restore(jax.tree.map(lambda a: a[index], parsed.spans), every[index])
        assert best == "(S (R a) (T b))" and 0.1 < p[index] / 2 > np.exp(parsed.score[index])
    for i, sentence in enumerate(every):
        text = found.restore(jax.tree.map(lambda a, i=i: a[i], parsed.spans), sentence)
        if p[i] == 0:
            assert text is None
            continue
        tree = grammar.brackets(text)
        assert leaves(tree) == list(sentence)
        weight = rule_product(rules, tree)  # raises for a rule that does not exist
        assert weight == pytest.approx(np.exp(parsed.score[i]), rel=1e-9)
        assert weight == pytest.approx(derivations(rules, "S", sentence, max), rel=1e-9)


def leaves(tree):
    return [tree] if isinstance(tree, str) else [word for child in tree[1] for word in leaves(child)]


def rule_product(rules, tree):
    label, children = tree
    side = tuple(f"'{c}'" if isinstance(c, str) else c[0] for c in children)
    weight = rules[label][side]
    for child in children:
        if not isinstance(child, str):
            weight *= rule_product(rules, child)
    return weight


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('S -> "it\'s" [.5]|S S[5e-1]', {"S": {("'it's'",): 0.5, ("S", "S"): 0.5}}),
        ("S -> 'New York' [0.25] | '|' [0.25] | '#1' [0.25] | 'a [b]' [.25] # all sorts", None),
        ("  # nothing\n\nS -> 'a' [0.5] \\\n  | 'b' [0.5]", {"S": {("'a'",): 0.5, ("'b'",): 0.5}}),
        ("VP/NP -> 'a' [1]\n%start S\nS -> VP/NP A-1 [1]\nA-1 -> \"'\" [1]", {
            "S": {("VP/NP", "A-1"): 1}, "VP/NP": {("'a'",): 1}, "A-1": {("\'\'\'",): 1},
        }),
        ("S -> 'a' [0.33] | 'b' [0.66]\nS -> 'c' [0.004]", {"S": {("'a'",): 0.332, ("'b'",): 0.664, ("'c'",): 0.004}}),
        ("S -> 'a' [1.0] | 'b' [0.0]", {"S": {("'a'",): 1.0}}),
        ("N' -> N' 'x' [0.1] | 'y' [0.9]", {"N'": {("N'", "'x'"): 0.1, ("'y'",): 0.9}}),
    ],
)  # fmt: skip
def test_grammars_are_read_as_nltk_writes_them(text, expected):
    rules = grammar.read(text)
    if expected is None:
        assert list(rules["S"]) == [("'New York'",), ("'|'",), ("'#1'",), ("'a [b]'",)]
    else:
        assert list(rules) == list(expected)
        for a in rules:
            assert rules[a] == pytest.approx(expected[a], abs=1e-3)
            assert sum(rules[a].values()) == pytest.approx(1, abs=1e-12)


def test_trees_that_are_no_derivation_have_their_labels(x64):
    """A consensus of parses puts together what no rule does: labels as they are, no chain, symbols of ours left out."""
    found = grammar.convert(grammar.read(TEXT))
    at = {name: i for i, name in enumerate(found.nonterminals)}
    tag = {name: i for i, name in enumerate(found.preterminals)}
    size = len(at)
    spans = [np.array(a) for a in (
        [0, 0, -1], [3, 2, -1], [at["S"], at["NP"], -1],
        [at["NP"], size + tag["V"], -1], [size + tag["V"], size + tag["'and'"], -1],
        [tag["V"], tag["'and'"], tag["N"], -1],
    )]  # fmt: skip
    assert found.restore(spans, ["a", "and", "zebra"]) == "(S (NP (V a) and) (V zebra))"
    with pytest.raises(ValueError, match="got tags \\[4\\] and 5 words, expected the spans of one sentence"):
        found.restore(spans, ["a"] * 5)
    with pytest.raises(ValueError, match="expected the spans of one sentence"):
        found.restore([a[None] for a in spans], ["a", "a", "a"])


@pytest.mark.parametrize("words", [["New York", "("], ["a)", "b\\"], ["''", "|"]])
def test_trees_that_are_shown_are_read(words):
    """Whatever the words, and the tags of the Penn treebank, whose quotes are no words of ours."""
    tree = ("S", [("N", [words[0]]), ("''", [words[1]])])
    assert grammar.brackets(grammar.show(tree)) == tree == grammar.brackets(f"( {grammar.show(tree)} )")
    found = grammar.convert(grammar.from_trees([grammar.show(tree)]))
    spans = [np.array(a) for a in ([0], [2], [0], [1], [2], [0, 1])]
    assert grammar.brackets(found.restore(spans, words)) == tree


TREES = [
    "(S (NP (D the) (A old) (A grey) (N dog)) (VP (V barks)))",
    "(S (NP (D a) (N dog)) (VP (V sees) (NP (D the) (N dog))))",
    "(S (VP (V barks)))",
]


@pytest.mark.parametrize("markov", [None, 0, 1])
def test_treebanks(x64, markov):
    rules = grammar.from_trees(TREES, markov=markov)
    assert rules["S"] == {("NP", "VP"): pytest.approx(2 / 3), ("VP",): pytest.approx(1 / 3)}
    found = grammar.convert(rules)
    every = [leaves(grammar.brackets(t)) for t in TREES] + [["the", "old", "dog", "barks"]]
    p, parsed = evidence(found, every)
    restored = [found.restore(jax.tree.map(lambda a, i=i: a[i], parsed.spans), s) for i, s in enumerate(every)]
    assert restored[: len(TREES)] == TREES
    np.testing.assert_allclose(p[2], derivations(rules, "S", every[2]), rtol=1e-12)
    # a part that remembers nothing lets one adjective follow: never seen in the trees
    assert (p[3] > 0) == (markov == 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "S -> A B [0.5] | 'c' [0.4]\nA -> 'a' [1]\nB -> 'b' [1]",
            "rules of S: probabilities sum to 0.9, expected 1",
        ),
        ("S -> A B [1]\nA -> 'a' [1]", "rule S -> A B: B has no rules"),
        ("S -> 'a' [1]\nT -> 'b' [1]", "rule T -> 'b': T cannot be reached from S"),
        ("S -> A [1]\nA -> B [1]\nB -> A [1]", "rule S -> A: S never comes to an end"),
        ("S -> 'a' [0.5] | A [0.5]\nA -> A [1]", "rule A -> A: A never comes to an end"),
        ("S -> [1]", r"rule S -> \(nothing\): an empty right-hand side"),
        ("S -> 'a' [1.5] | 'b' [-0.5]", "rule S -> 'a': probability 1.5, expected 0 < p <= 1"),
        ("S -> 'a' [x]", "rule \"S -> 'a' \\[x\\]\": probability 'x' is not a number"),
        ("S -> 'a'", "rule \"S -> 'a'\": expected A -> B C"),
        ("S 'a' [1]", "expected A -> B C"),
        ("", "no rules"),
    ],
)
def test_malformed_grammars_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        grammar.read(text)


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        (["(S (A a)"], "expected one tree"),
        (["(S)"], "unexpected '\\)'"),
        (["S a"], "unexpected 'S'"),
        (["(S a)", "(T a)"], "got roots S, T"),
        ([], "got roots none"),
        (["(S|T a)"], "has a |"),
    ],
)
def test_malformed_trees_are_named(trees, message):
    with pytest.raises(ValueError, match=message):
        grammar.from_trees(trees)
