"""The demo of grammars: its data, its measure of brackets, and its conclusion."""

import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from benchmarks import datasets
from benchmarks.demo import grammar, pictures_grammar


def test_bundled_sentences_and_trees():
    found = datasets.tags()
    assert len(found.names) == 17 and [len(part.lengths) for part in found[1:]] == [11991, 1957, 2023]
    for part in found[1:]:
        assert ((part.tags >= 0).sum(1) == part.lengths).all() and part.tags.max() == 16
    trees = datasets.short_trees()
    assert {name: len(part) for name, part in trees.items()} == {"train": 1158, "dev": 94, "test": 123}
    known = set(found.names)
    for text in trees["test"]:
        gold = grammar.Gold.read(text)
        assert 1 <= len(gold.words) <= 10 and set(gold.words) <= known
    ys, weights = grammar.sentences("dev", None)
    assert int(weights.sum()) == 1160 and int(ys.length.max()) == 10


def test_brackets_and_baselines():
    gold = grammar.Gold.read("(S (NP (D a) (N b)) (VP (V c) (NP (X (N d)))))")
    assert gold.words == ["a", "b", "c", "d"] and gold.spans == {(0, 2), (2, 4)}
    assert grammar.left(4) == {(0, 2), (0, 3)} and grammar.right(4) == {(2, 4), (1, 4)}
    flat = grammar.Gold(["a", "b", "c"], set())
    both = [gold, flat]
    # one of two brackets is right, and one is guessed where there is none
    score = grammar.brackets_score(both, grammar.right)
    assert score.f1 == pytest.approx(2 * 1 / (2 + 3)) and score.each == pytest.approx(0.5)
    assert grammar.bound(both).f1 == pytest.approx(2 * 2 / (2 + 3))


def test_a_counted_grammar_covers_its_own_trees():
    names = datasets.tags().names
    tree = "(ROOT (NP (DT DET) (JJ ADJ) (NN NOUN)))"
    rows = [[names.index(w) for w in words.split()] for words in ("DET ADJ NOUN", "DET NOUN", "VERB NOUN")]
    test = grammar.pad(rows), jnp.array([1.0, 1.0, 2.0])
    theta, covered, model = grammar.from_trees([tree], names, test)
    assert covered == pytest.approx(0.25)
    log_p = elbo.evidence(model, batch_size=128)(elbo.Params.tied(theta), test[0])
    assert np.isfinite(log_p).all() and log_p[0] > log_p[1]


def test_conclusion_table_and_picture(tmp_path):
    names = ("right-branching", "induced", "counted")
    scores = {n: grammar.Score(None if i == 0 else 2.0, 0.3 + 0.1 * i, 0.3) for i, n in enumerate(names)}
    path = [grammar.Score(2.0, 0.7, 0.7), grammar.Score(1.9, 0.6, 0.6)]
    result = grammar.Result(
        scores, np.full((2, 3), 2.1), np.full(5, 2.0), [0, 4], path, 0.5, ["DET", "NOUN", "VERB"], {(0, 2)},
        {"induced": np.zeros((3, 4)), "counted": np.ones((3, 4))}, (10, 50, 3),
    )  # fmt: skip
    text = grammar.figures(result)["conclusion"]
    assert "F1 40.0%, above right-branching trees (30.0%)" in text
    assert "after 4 steps of EM on sentences without trees 1.900 nats, and F1 falls to 60.0%" in text
    assert grammar.table(result).row_count == 3
    pictures_grammar.grammar_picture(result, tmp_path / "grammar.png")
    assert (tmp_path / "grammar.png").stat().st_size > 10_000
