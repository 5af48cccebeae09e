"""Language models with discrete states on the characters of Shakespeare, against an HMM by EM and n-grams."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

import elbo
from elbo import optim
from elbo.models import hmm, hmm_inference, latent_lm
from elbo.models.families import Categorical

from .. import datasets
from . import autoencoder, gradient_noise
from .ngram import kneser_ney

ORDERS = range(2, 9)
BATCH = 32
SCORE, RELAXED = elbo.ScoreFunction(2), elbo.Relaxed(0.5, straight_through=True)
HMM, EXACT, NETWORK = "HMM by EM", "(a) neural HMM, exact", "(a) with one state"
CRF, SAMPLED, SOFT = "(b) amortised", "(c) score function", "(c) straight through"
NGRAM = "n-grams, Kneser-Ney"
PIECES = 8


class Budget(NamedTuple):
    """How much to do.

    Attributes:
      frames: characters of a text; no model looks over its beginning.
      validate, test: texts held out, at the end; as many of each, so that what scores them is compiled once.
      train: texts to learn from at most.
      states, past, hidden, reader: of the latent models; hmm_states: of the HMM.
      epochs: of gradient; em: steps of EM.
      samples: importance-weighted.
    """

    frames: int = 128
    validate: int = 128
    test: int = 128
    train: int = 10**6
    states: int = 8
    past: int = 5
    hidden: int = 128
    reader: int = 32
    hmm_states: int = 32
    epochs: int = 4
    em: int = 25
    samples: int = 16


FULL = Budget()


class Score(NamedTuple):
    """One model.

    Attributes:
      states: K; 0 for none.
      parameters: numbers in Θ; of n-grams the order.
      bits: [N], bits of each held-out text: exact, or a bound from above.
      exact: whether they are −log2 P.
      tighter: bits per character by the exact evidence or by importance sampling, or None.
      used: E KL(q, P(z)), bits per character that the states carry, or None.
      curve: bits per character on validation texts after each epoch.
      seconds: of training, compilation included.
    """

    states: int
    parameters: int
    bits: np.ndarray
    exact: bool
    tighter: float | None
    used: float | None
    curve: list[float]
    seconds: float


class Result(NamedTuple):
    """All scores; decoded states of the first test text by model; noise of the gradients."""

    frames: int
    scores: dict[str, Score]
    line: str
    states: dict[str, np.ndarray]
    noise: dict[str, gradient_noise.Noise]


class Texts(NamedTuple):
    """Int [N, T] each."""

    train: jax.Array
    validate: jax.Array
    test: jax.Array


def split(text: str, budget: Budget) -> tuple[Texts, list[str]]:
    """A text cut into rows of characters by number, and the characters."""
    kinds, numbers = np.unique(list(text), return_inverse=True)
    rows = numbers[: len(numbers) // budget.frames * budget.frames].reshape(-1, budget.frames)
    held_out = budget.validate + budget.test
    train, validate, test = np.split(rows, [len(rows) - held_out, len(rows) - budget.test])
    return Texts(*(jnp.asarray(a, jnp.int32) for a in (train[: budget.train], validate, test))), kinds.tolist()


def compute(tell: Callable[[str], None], budget: Budget = FULL, data: str | None = None) -> Result:
    """Everything; `data` takes the place of the bundled one."""
    texts, kinds = split(datasets.shakespeare() if data is None else data, budget)
    size = latent_lm.Size(len(kinds), budget.states, budget.past)
    key = jax.random.key(0)
    widths = {"hidden": (budget.hidden,), "embedding": 16}
    scores, states = {}, {}

    tell("n-grams")
    scores[NGRAM] = count_grams(texts, len(kinds))
    tell(HMM)
    scores[HMM], states[HMM] = fit_hmm(texts, len(kinds), budget)
    for name, shape in ((NETWORK, size._replace(states=1)), (EXACT, size)):
        tell(name)
        networks, params = latent_lm.build(key, shape, **widths)
        model = latent_lm.neural_hmm(networks, shape)
        scores[name], fitted = climb(model, params, texts, budget, optim.eg_step, None)
    states[EXACT] = np.asarray(hmm_inference.decode(model, fitted, texts.test[:1]).states[0])
    tell(CRF)
    networks, params = latent_lm.build(key, size, **widths, reader=budget.reader)
    model = latent_lm.amortised(networks, size)
    scores[CRF], fitted = climb(model, params, texts, budget, optim.vae_step, None)
    # Θ is that of a neural HMM: what its own posterior makes of it
    evidence = elbo.evidence(latent_lm.neural_hmm(networks, size))
    scores[CRF] = scores[CRF]._replace(tighter=per_character(_bits(evidence, fitted, texts.test), budget))
    networks, params = latent_lm.build_recurrent(
        key, size, hidden=budget.hidden, embedding=widths["embedding"], reader=budget.reader
    )
    model = latent_lm.recurrent(networks, size)
    for name, estimator in ((SAMPLED, SCORE), (SOFT, RELAXED)):
        tell(name)
        scores[name], fitted = climb(model, params, texts, budget, optim.vae_step, estimator)
        if name == SAMPLED:
            tighter = autoencoder.importance_weighted(model, budget.samples)
            value = per_character(_bits(tighter, fitted, texts.test, jax.random.key(3)), budget)
            scores[name] = scores[name]._replace(tighter=value)
            states[name] = np.asarray(model.encoder(fitted.psi, texts.test[0]).best()[0])
    tell("noise of gradients")
    noise = gradient_noise.tiny(np.asarray(texts.train[:256]), len(kinds))
    line = "".join(kinds[i] for i in texts.test[0].tolist())
    return Result(budget.frames, scores, line, states, noise)


def count_grams(texts: Texts, symbols: int) -> Score:
    """Kneser-Ney n-grams of the order that is best on the validation texts."""
    begin = time.perf_counter()
    train, validate, test = (np.asarray(a) for a in texts)
    curve = [-kneser_ney(train, validate, symbols, n).sum() / validate.size / math.log(2) for n in ORDERS]
    order = ORDERS[int(np.argmin(curve))]
    bits = -kneser_ney(train, test, symbols, order) / math.log(2)
    return Score(0, order, bits, True, None, None, [], time.perf_counter() - begin)


def fit_hmm(texts: Texts, symbols: int, budget: Budget) -> tuple[Score, np.ndarray]:
    """An HMM with a categorical emission by EM, and its states of the first test text."""
    begin, model = time.perf_counter(), hmm.model(budget.hmm_states)
    family = Categorical(jnp.zeros((budget.hmm_states, symbols)))
    params = hmm.init(jax.random.key(0), texts.train, budget.hmm_states, family=family, stay=1 / budget.hmm_states)
    # not symmetric: every state its own way on
    steps = Categorical(0.5 * jax.random.normal(jax.random.key(1), params.theta.transition.logits.shape))
    theta = params.theta._replace(transition=steps)
    rule = optim.em_step(model)
    params = optim.run(rule, elbo.Params.tied(theta), texts.train, steps=budget.em).params
    bits = _bits(elbo.evidence(model), params, texts.test)
    seconds = time.perf_counter() - begin
    states = np.asarray(hmm_inference.decode(model, params, texts.test[:1]).states[0])
    return Score(budget.hmm_states, _count(params.theta), bits, True, None, None, [], seconds), states


def climb(model, params, texts: Texts, budget: Budget, step, estimator) -> tuple[Score, elbo.Params]:
    """Adam, with a rate that falls to zero, for some epochs."""
    begin = time.perf_counter()
    estimator = None if estimator is None else elbo.Automatic(estimator)
    steps = budget.epochs * -(-len(texts.train) // BATCH)
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 6e-3, steps // 20, steps))
    rule = optim.minibatches(step(model, optimizer, estimator=estimator), BATCH)
    # the score function's value is that of hard samples
    bound = elbo.elbo(model, estimator=elbo.Automatic(SCORE), batch_size=32)
    tie = getattr(model.encoder, "e_step", lambda theta, psi: psi)
    state, curve = rule.init(params), []
    for epoch in range(budget.epochs):
        done = optim.run(rule, params, texts.train, key=jax.random.key(1), steps=1, state=state, first=epoch)
        params, state = done.params, done.state
        params = params._replace(psi=tie(params.theta, params.psi))
        curve.append(per_character(_bits(bound, params, texts.validate, jax.random.key(2)), budget))
    bits = _bits(bound, params, texts.test, jax.random.key(2))
    used = jnp.mean(used_by_states(model)(params, texts.test)) / math.log(2) / budget.frames
    seconds = time.perf_counter() - begin
    states = params.theta.initial.values
    score = Score(states, _count(params.theta), bits, tie(1, 2) == 1, None, float(used), curve, seconds)
    return score, params


def used_by_states(model: elbo.Model) -> Callable[[elbo.Params, jax.Array], jax.Array]:
    """`f(params, ys)`: KL(q(z|y), P(z)) of each text, [N], nats; exact, for ln P(z) is affine in the path."""

    def one(params, y):
        q = model.posterior(params, y)
        steps = params.theta.transition.logits
        prior = elbo.posteriors.ChainPosterior(
            params.theta.initial.logits, jax.nn.log_softmax(steps), jnp.zeros(q.states.shape), q.length
        )
        return elbo.kl(q, prior)

    return jax.jit(jax.vmap(one, (None, 0)))


def per_character(bits: np.ndarray, budget: Budget) -> float:
    """The mean over texts, divided by their length."""
    return float(np.mean(bits)) / budget.frames


def _bits(f, params, ys, *key) -> np.ndarray:
    return -np.asarray(f(params, ys, *key), np.float64) / math.log(2)


def _count(theta) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(theta))


def table(result: Result) -> Table:
    """What to print."""
    out = Table(
        title="Characters of Shakespeare: bits per character on held-out texts",
        caption="(b) and (c): upper bounds; beside them −log2 P exactly for (b), importance-weighted for (c). Used: "
        "KL(q, P(z)), bits per character that the states carry. n-grams: the order in place of the parameters.",
    )
    for name in ("model", "states", "parameters", "bits", "± s.e.", "tighter", "used", "seconds"):
        out.add_column(name, justify="left" if name == "model" else "right")
    for name, row in figures(result)["models"].items():
        optional = ("" if row[k] is None else f"{row[k]:.3f}" for k in ("tighter", "used"))
        out.add_row(
            *(name, str(row["states"] or ""), str(row["parameters"]), f"{row['bits']:.3f}"),
            *(f"{row['standard_error']:.3f}", *optional, f"{row['seconds']:.1f}"),
        )
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    models = {}
    for name, score in result.scores.items():
        each = score.bits / result.frames
        models[name] = score._replace(bits=float(each.mean()))._asdict()
        models[name]["standard_error"] = float(each.std() / math.sqrt(len(each)))
    noise = {name: n._asdict() for name, n in result.noise.items()}
    return {"unit": "bits per character", "models": models, "noise": noise, "conclusion": conclusion(result)}


def compare(result: Result, ours: str, theirs: str) -> str:
    """Which of two models is better on the same texts, in words."""
    gain = (result.scores[theirs].bits - result.scores[ours].bits) / result.frames
    lead, error = float(gain.mean()), float(gain.std() / math.sqrt(len(gain)))
    word = "beats" if lead > 2 * error else "is beaten by" if lead < -2 * error else "is about as good as"
    return f"{ours} {word} {theirs} ({-lead:+.3f} ± {error:.3f} bits)"


def conclusion(result: Result) -> str:
    """What the numbers say."""
    pairs = ((EXACT, HMM), (EXACT, NGRAM), (EXACT, NETWORK), (CRF, EXACT), (SAMPLED, SOFT), (SAMPLED, NGRAM))
    unused = [n for n, s in result.scores.items() if s.states > 1 and s.used is not None and s.used < 0.01]
    said = [compare(result, *pair) for pair in pairs]
    said.append(f"States that carry less than 0.01 bits: {', '.join(unused) or 'of no model'}")
    plain, ours, *others = result.noise.items()
    ratio = (plain[1].deviation / ours[1].deviation) ** 2
    said.append(f"The leave-one-out baseline divides the variance of the score function by {ratio:.3g}")
    biased = [f"{name} {n.bias:.2g}" for name, n in (plain, ours, *others) if n.bias > 3 * n.error]
    said.append(f"Bias beyond 3 standard errors, in norms of the exact gradient: {', '.join(biased) or 'none'}")
    return ". ".join(said) + "."
