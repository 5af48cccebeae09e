"""The demo of language models: its n-grams, its scores at a tiny size, and that its words follow its numbers."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbo
from benchmarks import datasets
from benchmarks.demo import gradient_noise, language, pictures_language
from benchmarks.demo.ngram import kneser_ney
from elbo import optim
from elbo.models import latent_lm

TINY = language.Budget(frames=16, validate=4, test=4, train=64, epochs=2)


def test_the_bundled_text():
    text = datasets.shakespeare()
    assert len(text) == 299_869 and len(set(text)) == 62 and text.startswith("First Citizen:")


@pytest.mark.parametrize("order", [1, 2, 4])
def test_kneser_ney_is_a_distribution_of_texts(order):
    train = np.random.default_rng(0).integers(0, 3, (5, 9))
    train[train == 2] *= np.arange(45)[(train == 2).ravel()] % 2  # some are rare
    texts = np.array(list(product(range(3), repeat=4)))
    np.testing.assert_allclose(np.exp(kneser_ney(train, texts, 3, order)).sum(), 1, rtol=1e-12)


def test_kneser_ney_by_hand():
    """Bigrams of "aab" and "ac", ^ at the beginning: ^a twice, aa, ab, ac once."""
    p = np.exp(kneser_ney(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), 3, 2))
    # grams ^a, aa, ab once each: d = 3/3 = 1, so that all is left to the unigrams, of continuations a: 2, b: 1
    unigram = lambda kinds, d: (max(kinds - d, 0) + d * 2 / 3) / 3
    d = 1 / (1 + 2)  # one symbol with one symbol before it, one with two
    np.testing.assert_allclose(p, [unigram(2, d) * unigram(1, d) ** 2], rtol=1e-12)


def test_scores_at_a_tiny_size():
    """Bits of the fitted model are those of its evidence."""
    texts, kinds = language.split(datasets.shakespeare(), TINY)
    assert [len(a) for a in texts] == [64, 4, 4] and texts.test.max() < len(kinds)
    size = latent_lm.Size(len(kinds), 2, 2)
    networks, params = latent_lm.build(jax.random.key(0), size, hidden=(8,), embedding=4)
    model = latent_lm.neural_hmm(networks, size)
    score, fitted = language.climb(model, params, texts, TINY, optim.eg_step, None)
    np.testing.assert_allclose(score.bits, -elbo.evidence(model)(fitted, texts.test) / np.log(2), rtol=1e-5)
    assert score.exact and len(score.curve) == 2 and score.curve[1] < score.curve[0] < 7 and score.used > 0
    grams = language.count_grams(texts, len(kinds))
    assert grams.parameters in language.ORDERS and grams.bits.shape == (4,)


def test_the_list_of_paths_is_the_exact_expectation(x64):
    rng = np.random.default_rng(0)
    q = elbo.posteriors.ChainPosterior(*(jnp.asarray(rng.normal(size=s)) for s in ((2,), (2, 2), (3, 2))), jnp.array(3))
    listed = gradient_noise.Listed(jnp.array(list(product(range(2), repeat=3))))
    f = lambda path: jnp.sum(path.transitions * jnp.arange(4.0).reshape(2, 2)) + path.states[2, 1]
    np.testing.assert_allclose(listed(f, q), elbo.ClosedForm()(f, q), rtol=1e-12)


def made_up(exact=2.0, used=0.5):
    """A result of made-up numbers."""
    each = np.random.default_rng(0).normal(size=20)
    score = lambda bits, states: language.Score(states, 10, 128 * bits + each, True, None, used, [bits + 1, bits], 1.0)
    bits = {language.NGRAM: 2.5, language.HMM: 3.0, language.NETWORK: 2.2, language.EXACT: exact}
    scores = {name: score(b, 0 if name == language.NGRAM else 8) for name, b in bits.items()}
    scores |= {name: score(2.4, 8)._replace(exact=False) for name in (language.CRF, language.SAMPLED, language.SOFT)}
    noise = {name: gradient_noise.Noise(4.0 / (i + 1), 0.1 * i, 0.01) for i, name in enumerate(_names())}
    states = {language.HMM: np.arange(128) % 30, language.EXACT: np.arange(128) % 8}
    return language.Result(128, scores, "To be, or not\n to be" * 6 + "the same", states, noise)


def _names():
    return gradient_noise.ESTIMATORS


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (made_up(), ("exact beats HMM", "exact beats n-grams", "of no model", "variance of the score function by 4")),
        (made_up(exact=3.5), ("exact is beaten by HMM by EM (+0.500", "exact is beaten by n-grams")),
        (made_up(exact=3.0, used=0.0), ("exact is about as good as HMM", "less than 0.01 bits: HMM by EM, (a) with")),
    ],
)
def test_the_conclusion_is_what_the_numbers_say(result, said):
    text = language.conclusion(result)
    for part in said:
        assert part in text
    assert "relaxed, temperature 1 0.2" in text and "no baseline 0" not in text


def test_the_table_and_the_picture(tmp_path):
    result = made_up()
    assert language.table(result).row_count == 7
    assert language.figures(result)["models"][language.EXACT]["bits"] == pytest.approx(2.0, abs=0.01)
    pictures_language.picture(result, tmp_path / "language.png")
    assert (tmp_path / "language.png").stat().st_size > 10_000
