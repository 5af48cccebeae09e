"""Connected digits: a small network learns from strings of digits, without being told when each is spoken."""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import elbo
from elbo import optim
from elbo._types import PyTree
from elbo.models import ctc, ctc_decoding
from elbo.models.networks import functional

from .. import datasets, speech

PIECES = 4
STRIDE = 4  # frames of the spectrum for each frame of the network
BLANK = 10
EXACT, SAMPLED, PLAIN = "eg, exact E", "vae, sampled alignments", "optax.ctc_loss, a plain loop"


class Size(NamedTuple):
    """How much of everything.

    Attributes:
      train, test: utterances, of `digits` digits each (least and most).
      gap: longest silence between two digits, seconds.
      speed: a take for training is made faster or slower by up to this share.
      width: channels of the network; rate: of Adam, which falls to zero as a cosine.
      steps, batch: of each method; every: steps between two looks at the test utterances.
      samples: alignments drawn for each utterance by the method that samples.
    """

    train: int = 1500
    test: int = 100
    digits: tuple[int, int] = (3, 7)
    gap: float = 0.25
    speed: float = 0.15
    width: int = 64
    rate: float = 2e-3
    steps: int = 1000
    batch: int = 24
    every: int = 20
    samples: int = 4


class Curve(NamedTuple):
    """How a method learned: after so many steps and seconds, without compiling and looking.

    Attributes:
      loss: −ln P(digits | spectrum) per digit of the test utterances, nats.
      errors: label error rate of greedy decoding, there.
      beam: label error rate of beam search with 8 prefixes at the end.
    """

    steps: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray
    errors: np.ndarray
    beam: float


class Result(NamedTuple):
    """Curves by name of the method; and one test utterance as the first method aligns it."""

    size: Size
    curves: dict[str, Curve]
    spectrum: np.ndarray  # [T, bands]
    marginals: np.ndarray  # [T / STRIDE, 2L + 1]
    path: np.ndarray  # int [T / STRIDE]
    digits: np.ndarray  # int [L]
    heard: np.ndarray  # int


class Network(nnx.Module):
    """Four convolutions over time, two of them with stride 2; what lies beyond the length stays zero."""

    def __init__(self, bands: int, width: int, rngs: nnx.Rngs):
        shapes = ((bands, 2), (width, 2), (width, 1), (width, 1))
        layers = [nnx.Conv(n, width, kernel_size=(5,), strides=(s,), rngs=rngs) for n, s in shapes]
        self.layers = nnx.List(layers)
        self.head = nnx.Linear(width, BLANK + 1, rngs=rngs)

    def __call__(self, inputs: elbo.Padded) -> jax.Array:
        """[T, bands] to logits [T / STRIDE, symbols]."""
        x, length = inputs.values, inputs.length
        for layer in self.layers:
            x, length = nnx.relu(layer(x)), -(-length // layer.strides[0])
            x = elbo.Padded(x, length).clean().values
        return self.head(x)


def utterances(
    data: datasets.Speech, part: np.ndarray, count: int, size: Size, seed: int, speed: float = 0.0
) -> elbo.Labelled:
    """Takes of one speaker, one after the other with gaps of soft noise between them, at random."""
    rng = np.random.default_rng(seed)
    features, digits = [], []
    for _ in range(count):
        takes = np.flatnonzero(part & (data.speaker == rng.choice(data.speaker)))
        chosen = rng.choice(takes, rng.integers(size.digits[0], size.digits[1] + 1))
        pieces = []
        for i in chosen:
            wave, factor = data.waves[i], rng.uniform(1 - speed, 1 + speed)
            wave = np.interp(np.arange(0, len(wave) - 1, factor), np.arange(len(wave)), wave)
            pieces += [1e-4 * rng.standard_normal(int(rng.uniform(0, size.gap) * data.rate)), wave]
        features.append(speech.log_mel(np.concatenate(pieces), data.rate))
        digits.append(data.labels[chosen])
    return elbo.Labelled(_padded(features, np.float32), _padded(digits, np.int32))


def _padded(rows: list[np.ndarray], dtype: type) -> elbo.Padded:
    longest = max(map(len, rows))
    values = np.stack([np.pad(r, [(0, longest - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows]).astype(dtype)
    return elbo.Padded(jnp.asarray(values), jnp.array([len(r) for r in rows], jnp.int32))


def compute(tell: Callable[[str], None], size: Size | None = None, data: datasets.Speech | None = None) -> Result:
    """The same network, start, batches and optimiser for three ways to learn, in float32."""
    size, data = size or Size(), data or datasets.spoken_digits()
    tell("utterances")
    train, test = (
        utterances(data, ~data.is_test, size.train, size, 0),
        utterances(data, data.is_test, size.test, size, 1),
    )
    apply, start = functional(Network(train.inputs.values.shape[-1], size.width, nnx.Rngs(0)))
    optimizer = optax.adam(optax.cosine_decay_schedule(size.rate, size.steps))
    model = ctc.model(apply, blank=BLANK, stride=STRIDE)
    methods = {
        EXACT: optim.eg_step(model, optimizer),
        SAMPLED: optim.vae_step(model, optimizer, estimator=elbo.ScoreFunction(size.samples)),
        PLAIN: plain(apply, optimizer),
    }
    look, beam_errors = jax.jit(partial(_look, apply, test)), jax.jit(partial(_beam_errors, apply, test))
    tell("compiling")
    learners = {name: learn(rule, start, train, look, size) for name, rule in methods.items()}
    looks = {name: [next(learner)] for name, learner in learners.items()}
    tell(f"{size.steps} steps of each method, in turns")
    for _ in range(size.steps // size.every):
        # so what else the machine does slows them all
        for name, learner in learners.items():
            looks[name].append(next(learner))
    tell("beam search")
    learned = {name: seen[-1][0] for name, seen in looks.items()}
    curves = {
        name: Curve(*map(np.array, zip(*(look for _, look in seen), strict=True)), float(beam_errors(learned[name])))
        for name, seen in looks.items()
    }
    one = jax.tree.map(lambda a: a[0], test)
    length, count = int(one.inputs.length), int(one.labels.length)
    logits, frames = apply(learned[EXACT], one.inputs), -(-length // STRIDE)
    q = model.encoder(learned[EXACT], one)
    heard = ctc_decoding.greedy(logits, frames, blank=BLANK)
    return Result(
        *(size, curves, np.asarray(one.inputs.values[:length])),
        *(np.asarray(q.mean())[:frames, : 2 * count + 1], np.asarray(q.best()[0])[:frames]),
        *(np.asarray(one.labels.values[:count]), np.asarray(heard.values[: int(heard.length)])),
    )


def plain(apply: Callable, optimizer: optax.GradientTransformation) -> optim.Rule:
    """What one writes without this toolkit, in the form of a rule so that it can take its turn."""

    def loss(theta, ys):
        logits = jax.vmap(apply, (None, 0))(theta, ys.inputs)
        return jnp.mean(_losses(optax.ctc_loss, logits, ys))

    @jax.jit
    def update(key, params, state, ys, *, weights=None):
        del key, weights
        gradient = jax.grad(loss)(params.theta, ys)
        updates, state = optimizer.update(gradient, state, params.theta)
        theta = optax.apply_updates(params.theta, updates)
        return elbo.Params.tied(theta), state, None

    return optim.Rule(lambda params: optimizer.init(params.theta), update)


def learn(
    rule: optim.Rule, start: PyTree, train: elbo.Labelled, look: Callable, size: Size
) -> Iterator[tuple[PyTree, tuple[float, ...]]]:
    """Steps of a rule on random batches; every so many, theta with (steps, seconds, what `look(theta)` sees)."""
    rng, key = np.random.default_rng(2), jax.random.key(3)
    params = elbo.Params(start, jax.tree.map(jnp.copy, start))
    state, taken = rule.init(params), 0.0
    jax.block_until_ready(rule.update(key, params, state, _batch(train, np.arange(size.batch))))  # compiles
    for step in itertools.count():
        if step % size.every == 0:
            yield params.theta, (step, taken, *map(float, look(params.theta)))
        ys = _batch(train, rng.choice(size.train, size.batch, replace=False))
        begin = time.perf_counter()
        params, state, _ = rule.update(jax.random.fold_in(key, step), params, state, ys)
        jax.block_until_ready(params)
        taken += time.perf_counter() - begin


def _look(apply: Callable, test: elbo.Labelled, theta: PyTree) -> tuple[jax.Array, jax.Array]:
    """−ln P per digit of the test utterances, nats, and the label error rate of greedy decoding."""
    logits = jax.vmap(apply, (None, 0))(theta, test.inputs)
    decoded = jax.vmap(partial(ctc_decoding.greedy, blank=BLANK))(logits, -(-test.inputs.length // STRIDE))
    losses = _losses(ctc.ctc_loss, logits, test)
    return jnp.sum(losses) / jnp.sum(test.labels.length), ctc_decoding.label_error_rate(decoded, test.labels)


def _beam_errors(apply: Callable, test: elbo.Labelled, theta: PyTree) -> jax.Array:
    """Label error rate of beam search."""

    def one(y):
        frames = -(-y.inputs.length // STRIDE)
        found = ctc_decoding.beam_search(apply(theta, y.inputs), frames, beams=8, most=12, blank=BLANK)
        return elbo.Padded(found.labels[0], found.lengths[0])

    return ctc_decoding.label_error_rate(jax.vmap(one)(test), test.labels)


def _losses(loss: Callable, logits: jax.Array, ys: elbo.Labelled) -> jax.Array:
    """[B], by a function with the arguments of `optax.ctc_loss`."""
    beyond = jnp.arange(logits.shape[1]) >= -(-ys.inputs.length // STRIDE)[:, None]
    labels = ys.labels.values
    missing = jnp.arange(labels.shape[1]) >= ys.labels.length[:, None]
    return loss(logits, beyond.astype(jnp.float32), labels, missing.astype(jnp.float32), blank_id=BLANK)


def _batch(ys: PyTree, rows: np.ndarray) -> PyTree:
    return jax.tree.map(lambda a: a[rows], ys)


def table(result: Result) -> Table:
    """What to print."""
    size = result.size
    out = Table(
        title=f"Connected digits, {size.digits[0]} to {size.digits[1]} an utterance: one network, three ways to learn",
        caption=f"{size.test} utterances of test takes. Errors: insertions, deletions and substitutions per digit. "
        f"{size.steps} steps on {size.batch} utterances each; seconds without compiling.",
    )
    columns = (
        "method",
        "nats per digit",
        "errors, greedy",
        "errors, 8 beams",
        "seconds",
        "ms a step",
        "to 10 % errors",
    )
    for i, name in enumerate(columns):
        out.add_column(name, justify="right" if i else "left")
    for name, row in figures(result)["methods"].items():
        reached = row["seconds_to_10_percent"]
        out.add_row(
            *(name, f"{row['loss']:.3f}", f"{row['errors']:.1%}", f"{row['beam_errors']:.1%}"),
            *(f"{row['seconds']:.1f}", f"{row['milliseconds_a_step']:.1f}"),
            "never" if reached is None else f"{reached:.1f} s",
        )
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    methods = {}
    for name, curve in result.curves.items():
        below = np.flatnonzero(curve.errors <= 0.1)
        methods[name] = {
            "loss": float(curve.loss[-1]),
            "errors": float(curve.errors[-1]),
            "beam_errors": curve.beam,
            "seconds": float(curve.seconds[-1]),
            "milliseconds_a_step": float(1e3 * curve.seconds[-1] / curve.steps[-1]),
            "seconds_to_10_percent": float(curve.seconds[below[0]]) if len(below) else None,
            "steps_to_10_percent": int(curve.steps[below[0]]) if len(below) else None,
        }
    return {
        "unit": "nats per digit of the test utterances",
        "size": result.size._asdict(),
        "methods": methods,
        "conclusion": conclusion(result, methods),
    }


def conclusion(result: Result, methods: dict) -> str:
    """What the numbers say."""
    exact, sampled, other = (methods[name] for name in (EXACT, SAMPLED, PLAIN))
    # the two follow the same gradient, up to rounding, until that has grown
    early = slice(0, 3)
    gap = np.max(np.abs(result.curves[EXACT].loss[early] - result.curves[PLAIN].loss[early]))
    pace = other["milliseconds_a_step"] / exact["milliseconds_a_step"]
    return (
        f"The exact expectation leaves {exact['errors']:.1%} errors after {exact['seconds']:.0f} s of steps, sampled "
        f"alignments {sampled['errors']:.1%} after as many steps and {sampled['seconds']:.0f} s. A plain loop over "
        f"optax.ctc_loss leaves {other['errors']:.1%}: the same gradient (test losses differ by {gap:.0e} nats at most "
        f"at first), {pace:.2f} times the time of a step."
    )
