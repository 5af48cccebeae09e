"""Grammars of parts of speech: induced by EM from short sentences alone, and counted from trees before EM goes on."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

import elbo
from elbo import optim
from elbo.models import grammar, pcfg
from elbo.models.families import Categorical

from .. import datasets

PIECES = 5
LONGEST = 10  # words, punctuation left out
SMOOTH = 0.01  # share of a uniform distribution in the counted grammar, so that every sentence has a parse

Spans = set[tuple[int, int]]


class Size(NamedTuple):
    """How much to compute: sentences and trees (None: all), symbols of the induced grammar, restarts, EM steps."""

    sentences: int | None = None
    trees: int | None = None
    nonterminals: int = 8
    preterminals: int = 16
    restarts: int = 8
    first: int = 15  # steps of every restart
    more: int = 45  # further steps of the best one
    counted: tuple[int, ...] = (1, 1, 2, 4)  # steps of the counted grammar between two looks


FULL = Size()


class Score(NamedTuple):
    """How good a grammar is.

    Attributes:
      nats: −ln P per word of the test sentences.
      f1: unlabelled F1 of all brackets of all trees together, without words and whole sentences.
      each: the mean over trees of that F1 of each tree (of those that have such brackets).
    """

    nats: float | None
    f1: float
    each: float


class Result(NamedTuple):
    """What was found.

    Attributes:
      scores: by name.
      climbs: −ln P per word of the training sentences in each step of each restart, [restarts, first].
      climb: of the best restart, all steps.
      steps, path: of the counted grammar: EM steps taken, and its scores.
      covered: the share of the test sentences that the counted grammar parses before smoothing.
      names: parts of speech of the sentence in the pictures; gold: its brackets.
      charts: by name, P(words i .. j-1 are a constituent), [T, T+1].
      counts: training sentences and words, test trees.
    """

    scores: dict[str, Score]
    climbs: np.ndarray
    climb: np.ndarray
    steps: list[int]
    path: list[Score]
    covered: float
    names: list[str]
    gold: Spans
    charts: dict[str, np.ndarray]
    counts: tuple[int, int, int]


def compute(tell: Callable[[str], None], size: Size = FULL) -> Result:
    """Everything, in float32."""
    names = datasets.tags().names
    train, weights = sentences("train", size.sentences)
    test = sentences("test", size.sentences)
    trees = datasets.short_trees()
    gold = [t for part in ("dev", "test") for t in map(Gold.read, trees[part]) if len(t.words) > 2][: size.trees]
    scores = {"left-branching": brackets_score(gold, left), "right-branching": brackets_score(gold, right)}
    scores["best binary trees"] = bound(gold)

    tell(f"grammar: {size.restarts} restarts of EM")
    model = pcfg.model(size.nonterminals, size.preterminals, single=True)
    rule = optim.em_step(model)
    start = jax.vmap(lambda k: pcfg.init(k, size.nonterminals, size.preterminals, len(names), single=True))
    starts = start(jax.random.split(jax.random.key(0), size.restarts))
    runs = jax.vmap(lambda p: optim.run(rule, p, train, steps=size.first, weights=weights))(starts)
    tell("grammar: the best restart")
    best = optim.best(runs)
    more = optim.run(rule, best.params, train, steps=size.more, weights=weights)
    induced = more.params.theta
    judge = Judge(model, names, test, gold)
    tell("grammar: brackets of the induced grammar")
    scores["induced, random start"] = judge(jax.tree.map(lambda a: a[0], starts).theta)
    scores["induced"] = judge(induced)

    tell("grammar: counted from trees")
    counted, covered, model = from_trees(trees["train"], names, test)
    rule, judge = optim.em_step(model), Judge(model, names, test, gold)
    tell("grammar: EM from the counted grammar")
    path, params = [judge(counted)], elbo.Params.tied(counted)
    for steps in size.counted:
        params = optim.run(rule, params, train, steps=steps, weights=weights).params
        path.append(judge(params.theta))
    scores["counted"], scores[f"counted, {sum(size.counted)} EM steps"] = path[0], path[-1]

    shown = max(gold, key=lambda t: (len(t.words), len(t.spans)))
    charts = {
        "induced": chart(pcfg.model(size.nonterminals, size.preterminals, single=True), induced, names, shown),
        "counted": chart(model, counted, names, shown),
    }
    per_word = float(jnp.sum(weights) / jnp.sum(weights * train.length))
    climbs = -np.asarray(runs.history.elbo) * per_word
    climb = -np.concatenate([best.history.elbo, more.history.elbo]) * per_word
    words = int(jnp.sum(weights * train.length))
    steps = np.cumsum([0, *size.counted]).tolist()
    numbers = int(jnp.sum(weights)), words, len(gold)
    return Result(scores, climbs, climb, steps, path, covered, shown.words, shown.spans, charts, numbers)


def sentences(part: str, limit: int | None) -> tuple[elbo.Padded, jax.Array]:
    """Parts of speech of short sentences without punctuation, each sequence once, and how often each occurs."""
    found = datasets.tags()
    mark = found.names.index("PUNCT")
    rows = getattr(found, part).tags
    every = Counter(tuple(row[(row >= 0) & (row != mark)].tolist()) for row in rows)
    kept = [(row, n) for row, n in every.items() if 1 <= len(row) <= LONGEST][:limit]
    weights = jnp.asarray([n for _, n in kept], jnp.float32)
    return pad([row for row, _ in kept]), weights


def pad(rows: Iterable) -> elbo.Padded:
    """Sentences as one batch of `LONGEST` words."""
    rows = list(rows)
    values = np.zeros((len(rows), LONGEST), np.int32)
    for i, row in enumerate(rows):
        values[i, : len(row)] = row
    return elbo.Padded(jnp.asarray(values), jnp.asarray([len(row) for row in rows], jnp.int32))


class Gold(NamedTuple):
    """A tree of the treebank: its parts of speech, and its brackets without words and the whole sentence."""

    words: list[str]
    spans: Spans

    @staticmethod
    def read(text: str) -> "Gold":
        """From brackets."""
        words, spans = [], set()

        def visit(tree):
            begin = len(words)
            for child in tree[1]:
                if isinstance(child, str):
                    words.append(child)
                else:
                    visit(child)
            spans.add((begin, len(words)))

        visit(grammar.brackets(text))
        return Gold(words, proper(spans, len(words)))


def proper(spans: Iterable[tuple[int, int]], words: int) -> Spans:
    """Spans of two words or more that are not the whole sentence."""
    return {(i, j) for i, j in spans if 2 <= j - i < words}


def left(words: int) -> Spans:
    """((a b) c) d."""
    return proper([(0, j) for j in range(words + 1)], words)


def right(words: int) -> Spans:
    """A (b (c d))."""
    return proper([(i, words) for i in range(words)], words)


def f1(gold: list[Spans], guess: list[Spans]) -> tuple[float, float]:
    """F1 of all brackets together, and the mean of the trees' own."""
    hits = [len(g & h) for g, h in zip(gold, guess, strict=True)]
    total = [len(g) + len(h) for g, h in zip(gold, guess, strict=True)]
    own = [2 * n / t for n, t, g in zip(hits, total, gold, strict=True) if g]
    return 2 * sum(hits) / max(sum(total), 1), float(np.mean(own))


def brackets_score(trees: list[Gold], guess: Callable[[int], Spans]) -> Score:
    """Of a guess that only knows the number of words."""
    return Score(None, *f1([t.spans for t in trees], [guess(len(t.words)) for t in trees]))


def bound(trees: list[Gold]) -> Score:
    """What trees with two children everywhere can reach at most: all brackets of the treebank, and more."""
    hits = [len(t.spans) for t in trees]
    guess = [len(t.words) - 2 for t in trees]
    own = [2 * h / (h + g) for h, g in zip(hits, guess, strict=True) if h]
    return Score(None, 2 * sum(hits) / (sum(hits) + sum(guess)), float(np.mean(own)))


class Judge:
    """Scores grammars of one model; compiles once."""

    def __init__(self, model: elbo.Model, names: tuple[str, ...], test: tuple, trees: list[Gold]):
        self.trees, (self.test, self.weights) = trees, test
        self.evidence = elbo.evidence(model, batch_size=128)
        self.ys = pad([names.index(w) for w in t.words] for t in trees)
        self.consensus = lambda params, ys: pcfg.consensus(model, params, ys)

    def __call__(self, theta: pcfg.Theta) -> Score:
        """The score of a grammar; its brackets are those of the consensus tree (minimum Bayes risk)."""
        log_p = self.evidence(elbo.Params.tied(theta), self.test)
        nats = -jnp.sum(self.weights * log_p) / jnp.sum(self.weights * self.test.length)
        found = self.consensus(elbo.Params(theta), self.ys)
        rows = zip(np.asarray(found.start), np.asarray(found.end), self.trees, strict=True)
        guess = [proper(zip(i.tolist(), j.tolist(), strict=True), len(t.words)) for i, j, t in rows]
        return Score(float(nats), *f1([t.spans for t in self.trees], guess))


def from_trees(trees: list[str], names: tuple[str, ...], test: tuple) -> tuple[pcfg.Theta, float, elbo.Model]:
    """Relative frequencies of a treebank's rules with a little of everything added; the share of `test` it covers."""
    # Penn tags give way to the parts of speech
    plain = [re.sub(r"\(\S+ ([^\s()]+)\)", lambda m: f"({m[1].lower()} {m[1]})", tree) for tree in trees]
    found = grammar.convert(grammar.from_trees(plain, markov=0))
    # the vocabulary is that of the sentences
    columns = np.array([names.index(w) for w in found.words])
    probabilities = np.zeros((len(found.preterminals), len(names)))
    probabilities[:, columns] = found.theta.emission.probabilities()
    theta = found.theta._replace(emission=Categorical.create(jnp.asarray(probabilities, jnp.float32)))
    model = pcfg.model(len(found.nonterminals), len(found.preterminals), single=True)
    log_p = elbo.evidence(model, batch_size=128)(elbo.Params.tied(theta), test[0])
    covered = float(jnp.sum(test[1] * jnp.isfinite(log_p)) / jnp.sum(test[1]))
    smooth = [Categorical.create((1 - SMOOTH) * f.probabilities() + SMOOTH / f.values) for f in theta]
    return pcfg.Theta(*smooth), covered, model


def chart(model: elbo.Model, theta: pcfg.Theta, names: tuple[str, ...], tree: Gold) -> np.ndarray:
    """P(words i .. j-1 are a constituent), [T, T+1]."""
    words = jnp.asarray([names.index(w) for w in tree.words])
    by_width = np.asarray(jnp.sum(model.encoder(theta, words).spans(), -1))  # type: ignore[attr-defined]
    out = np.zeros_like(by_width)
    for i in range(len(words)):
        out[i, i:] = by_width[i, : len(words) + 1 - i]
    return out


def table(result: Result) -> Table:
    """What to print."""
    sentences, words, trees = result.counts
    out = Table(
        title=f"Grammars of parts of speech: {sentences} sentences of EWT, up to {LONGEST} words; {trees} trees of GUM",
        caption="F1: unlabelled, without words and the whole sentence; of all trees together, and the mean over trees.",
    )
    for name in ("grammar", "nats a word (EWT test)", "F1", "F1, mean over trees"):
        out.add_column(name, justify="left" if name == "grammar" else "right")
    for name, s in result.scores.items():
        out.add_row(name, "" if s.nats is None else f"{s.nats:.3f}", f"{s.f1:.1%}", f"{s.each:.1%}")
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    scores = {name: s._asdict() for name, s in result.scores.items()}
    induced, chance = result.scores["induced"], result.scores["right-branching"]
    first, last = result.path[0], result.path[-1]
    verdict = "above" if induced.f1 > chance.f1 else "not above"
    better = "rises" if last.f1 > first.f1 else "falls"
    return {
        "unit": "nats per word; F1 as a share",
        "sentences, words, trees": result.counts,
        "scores": scores,
        "restarts, nats a word": result.climbs[:, -1].tolist(),
        "EM from the counted grammar": {str(n): s._asdict() for n, s in zip(result.steps, result.path, strict=True)},
        "covered before smoothing": result.covered,
        "conclusion": f"Induced from words' classes alone: F1 {induced.f1:.1%}, {verdict} right-branching trees "
        f"({chance.f1:.1%}), at {induced.nats:.3f} nats a word. Counted from trees: F1 {first.f1:.1%} at "
        f"{first.nats:.3f} nats; after {result.steps[-1]} steps of EM on sentences without trees {last.nats:.3f} nats, "
        f"and F1 {better} to {last.f1:.1%}.",
    }
