"""A VAE against the linear model with as many latent dimensions, in the same units, on held-out digits; MNIST if given.

The pixels of the digits are integers 0..16. They are made continuous with uniform noise, y = (pixel + u) / 17, drawn
afresh for every round of training, so that no density can profit from the pixels being integers: the mean of ln p(y),
minus ln 17 for each pixel, is a lower bound on ln P(pixels), and bits per dimension are bits for a whole pixel.
"""

import math
import time
from collections.abc import Callable
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
from elbo.models import factor_analysis, ppca, vae

from .. import datasets
from .clock import fit

BATCH = 128
LEVELS = 17  # grey levels of the bundled digits
PIECES = 4


class Size(NamedTuple):
    """How much of everything, for the digits.

    Attributes:
      train, validate: data of the linear models, and how many of those the VAEs keep to choose their round by.
      latent, hidden: latent dimensions of all models, and widths of the VAEs' hidden layers.
      rounds, epochs: rounds of training, and epochs in each.
      patience: rounds without a better one on the validation data before a VAE stops.
      draws: of the dequantisation noise, for the linear models.
      em: steps of factor analysis.
      samples: of z for each datum of the importance-weighted bound.
    """

    train: int = 1500
    validate: int = 200
    latent: int = 10
    hidden: tuple[int, ...] = (256, 256)
    rounds: int = 40
    epochs: int = 6
    patience: int = 8
    draws: int = 2
    em: int = 100
    samples: int = 200


FULL = Size()


class Scores(NamedTuple):
    """What one model gives for the held-out data.

    Attributes:
      noise: of the pixels: "shared" by all, or one scale "per pixel".
      bound: the lower bound L of each datum in nats, [N]; ln P itself for the linear models.
      tighter: importance-weighted lower bound, [N]; None for the linear models.
      train: bound per training datum.
      seconds: for training, compiling included.
      rounds: after which round the VAE was at its best on the validation data, of how many.
    """

    noise: str
    bound: np.ndarray
    tighter: np.ndarray | None
    train: float
    seconds: float
    rounds: tuple[int, int] | None = None


class Result(NamedTuple):
    """Scores by name of the model, pictures by name of the row, and what turns nats into bits per dimension."""

    scores: dict[str, Scores]
    pictures: dict[str, np.ndarray]
    size: Size
    pixels: int
    levels: int
    matching_latents: int | None


class Training(NamedTuple):
    """The best parameters on the validation data, their round, and their bound there."""

    params: elbo.Params
    round: int
    bound: float


def train(
    rule: optim.Rule,
    model: elbo.Model,
    params: elbo.Params,
    fresh: Callable[[jax.Array], PyTree],
    validation: PyTree,
    *,
    key: jax.Array,
    rounds: int,
    epochs: int,
    patience: int,
    report: Callable[[int, float], None] = lambda i, bound: None,
) -> Training:
    """Rounds of `optim.fit`, each on fresh data and going on from the last; the best round on the validation data.

    Args:
      rule, model, params: what to fit, and where to start.
      fresh: data of one shape from a key, for each round anew.
      validation: data to choose the round by.
      key: for everything that is drawn.
      rounds, epochs: at most so many rounds of so many steps of the rule.
      patience: rounds without a better one before it stops.
      report: told the round and its bound per validation datum.
    """
    bound = elbo.elbo(model)
    data_key, fit_key, bound_key = jax.random.split(key, 3)
    state, best = None, Training(params, 0, -math.inf)
    for i in range(rounds):
        ys = fresh(jax.random.fold_in(data_key, i))
        done = fit(rule, params, ys, key=fit_key, steps=epochs, state=state, first=i * epochs, every=epochs)
        params, state = done.params, done.state
        value = float(jnp.mean(bound(params, validation, bound_key)))
        if value > best.bound:
            best = Training(params, i + 1, value)
        report(i + 1, value)
        if i + 1 - best.round >= patience:
            break
    return best


def importance_weighted(model: elbo.Model, samples: int) -> Callable[..., jax.Array]:
    """`f(params, ys, key)`: ln of the mean of P(z, y) / q(z|y) over samples of q, [N] (Burda et al. 2016).

    Its expectation lies between L and ln P.
    """

    def one(params, y, key):
        q = model.posterior(params, y)

        def log_weight(key):
            z = q.sample(key)
            return sum(model.log_joint(params.theta, z, y)) - q.log_prob(z)

        return jax.nn.logsumexp(jax.vmap(log_weight)(jax.random.split(key, samples))) - math.log(samples)

    @jax.jit
    def batch(params, ys, key):
        return jax.lax.map(lambda a: one(params, *a), (ys, jax.random.split(key, len(ys))), batch_size=8)

    return batch


def compute(tell: Callable[[str], None], size: Size = FULL) -> Result:
    """The digits, in float32; `tell` is called before each model."""
    images = jnp.asarray(datasets.digits()[0], jnp.float32)
    order_key, draw_key, test_key, key = jax.random.split(jax.random.key(0), 4)
    images = images[jax.random.permutation(order_key, len(images))]
    seen, held_out = images[: size.train], images[size.train :]

    def dequantise(key, images):
        return (images + jax.random.uniform(key, images.shape)) / LEVELS

    test = dequantise(test_key, held_out)
    ys = jnp.concatenate([dequantise(k, seen) for k in jax.random.split(draw_key, size.draws)])
    scores: dict[str, Scores] = {}

    tell("PPCA, in closed form")
    begin = time.perf_counter()
    theta, highest = ppca.maximum_likelihood(ys, size.latent)
    linear, params = ppca.model(size.latent), elbo.Params.tied(theta)
    bound = np.asarray(elbo.evidence(linear)(params, test))
    scores["PPCA"] = Scores("shared", bound, None, float(highest), time.perf_counter() - begin)
    shown = test[:12]
    pictures = {"held out": shown, "PPCA": jax.vmap(theta.observation.mean)(codes(linear, params, shown))}
    pictures["PPCA samples"] = jax.vmap(theta.observation.mean)(jax.random.normal(key, (12, size.latent)))

    tell(f"factor analysis: {size.em} steps of em")
    begin = time.perf_counter()
    start = factor_analysis.init(key, ys, size.latent)
    linear = factor_analysis.model(size.latent)
    done = fit(optim.em_step(linear), start, ys, steps=size.em, every=size.em)
    bound = np.asarray(elbo.evidence(linear)(done.params, test))
    seconds = time.perf_counter() - begin
    scores["factor analysis"] = Scores("per pixel", bound, None, float(done.history.elbo[-1]), seconds)

    fitting, validation = seen[size.validate :], dequantise(draw_key, seen[: size.validate])
    for noise in ("shared", "per pixel"):
        tell(f"VAE, noise {noise}: {size.rounds * size.epochs} epochs")
        begin = time.perf_counter()
        networks, params = vae.build(
            key, images.shape[1], size.latent, hidden=size.hidden, likelihood="gaussian", activation=nnx.silu
        )
        # the noise starts as large as the data
        scale = jnp.full(() if noise == "shared" else images.shape[1:], jnp.log(jnp.std(ys)))
        params = params._replace(theta=params.theta._replace(log_scale=scale))
        model = vae.model(networks, "gaussian")
        steps = size.rounds * size.epochs * -(-len(fitting) // BATCH)
        rule = optim.minibatches(optim.vae_step(model, optax.adam(optax.cosine_decay_schedule(2e-3, steps))), BATCH)
        best = train(
            *(rule, model, params, lambda k: dequantise(k, fitting), validation),
            key=key,
            rounds=size.rounds,
            epochs=size.epochs,
            patience=size.patience,
        )
        seconds = time.perf_counter() - begin
        scores[f"VAE, noise {noise}"] = Scores(
            noise,
            *score(model, best.params, test, dequantise(key, fitting[: len(test)]), size.samples),
            seconds,
            (best.round, size.rounds),
        )
        if noise == "shared":
            decode = jax.vmap(lambda z, net=best.params.theta.network, n=networks: n.decode(net, z))
            pictures["VAE"] = decode(codes(model, best.params, shown))
            pictures["VAE samples"] = vae.sample(key, networks, best.params.theta, size.latent, 12)[1]
    matching = _latents_to_match(np.asarray(ys), np.asarray(test), float(np.mean(scores["VAE, noise shared"].bound)))
    pictures = {name: np.asarray(rows).reshape(-1, 8, 8) for name, rows in pictures.items()}
    return Result(scores, pictures, size, images.shape[1], LEVELS, matching)


def codes(model, params, ys):
    """The mode of q for each datum."""
    return jax.jit(jax.vmap(lambda y: model.posterior(params, y).mode()))(ys)


def score(model, params, test, seen, samples):
    """L of each test datum (the decoder's term from 16 samples), the importance-weighted bound, and L of data seen."""
    bound = elbo.elbo(model)
    means = np.mean([bound(params, test, key) for key in jax.random.split(jax.random.key(1), 16)], axis=0)
    tighter = np.asarray(importance_weighted(model, samples)(params, test, jax.random.key(2)))
    return means, tighter, float(jnp.mean(bound(params, seen, jax.random.key(3))))


def _latents_to_match(ys: np.ndarray, test: np.ndarray, goal: float) -> int | None:
    """The fewest latent dimensions with which PPCA gives held-out data as much as the goal; None if none do."""
    mean, size = ys.mean(0), ys.shape[1]
    values, vectors = np.linalg.eigh(np.cov(ys.T, bias=True))
    energy = ((test - mean) @ vectors[:, ::-1]) ** 2
    values = values[::-1]
    for latent in range(1, size):
        variances = np.where(np.arange(size) < latent, values, values[latent:].mean())
        if np.mean(-0.5 * np.sum(energy / variances + np.log(2 * np.pi * variances), 1)) >= goal:
            return latent
    return None


def bits(nats: float, pixels: int, levels: int) -> float:
    """Bits per dimension of a bound in nats; levels: of pixels made continuous on an interval of length 1, else 1."""
    return (math.log(levels) - nats / pixels) / math.log(2)


def table(result: Result) -> Table:
    """What to print."""
    size = result.size
    out = Table(
        title=f"A VAE and the linear model: held-out digits, {size.latent} latent dimensions, Gaussian noise",
        caption="Nats per datum, lower bounds on ln p of (pixels + uniform noise) / 17; exact for the linear models. "
        f"IW: importance-weighted, {size.samples} samples. Bits for one of 17 grey levels.",
    )
    for name in ("model", "noise"):
        out.add_column(name)
    for name in ("train", "held-out", "± s.e.", "bits/dim", "IW held-out", "IW bits/dim", "best round", "seconds"):
        out.add_column(name, justify="right")
    for name, row in figures(result)["models"].items():
        iw, rounds = row["importance_weighted"], row["best_round"]
        out.add_row(
            *(name, row["noise"], f"{row['train']:.2f}", f"{row['bound']:.2f}", f"{row['standard_error']:.2f}"),
            f"{row['bits_per_dimension']:.3f}",
            *(("", "") if iw is None else (f"{iw:.2f}", f"{row['importance_weighted_bits_per_dimension']:.3f}")),
            *("" if rounds is None else f"{rounds[0]} of {rounds[1]}", f"{row['seconds']:.1f}"),
        )
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    models = {}
    for name, score in result.scores.items():
        mean, tighter = float(np.mean(score.bound)), None if score.tighter is None else float(np.mean(score.tighter))
        models[name] = {
            "noise": score.noise,
            "train": score.train,
            "bound": mean,
            "standard_error": float(np.std(score.bound) / math.sqrt(len(score.bound))),
            "bits_per_dimension": bits(mean, result.pixels, result.levels),
            "importance_weighted": tighter,
            "importance_weighted_bits_per_dimension": tighter and bits(tighter, result.pixels, result.levels),
            "best_round": score.rounds,
            "seconds": score.seconds,
        }
    out = {"unit": "nats per held-out datum", "size": result.size._asdict(), "models": models}
    return out | {"ppca_latents_to_match": result.matching_latents, "conclusion": conclusion(result)}


def conclusion(result: Result) -> str:
    """Which is better, from the numbers."""
    sentences = []
    for linear, deep in (("PPCA", "VAE, noise shared"), ("factor analysis", "VAE, noise per pixel")):
        gain = result.scores[deep].bound - result.scores[linear].bound
        error = float(np.std(gain) / math.sqrt(len(gain)))
        lead = float(np.mean(gain))
        word = "beats" if lead > 2 * error else "is beaten by" if lead < -2 * error else "is about as good as"
        sentences.append(f"{deep}: its bound {word} {linear}'s exact ln P, by {lead:+.2f} ± {error:.2f} nats")
    match = result.matching_latents
    more = f"{match} latent dimensions" if match else "more latent dimensions than there are"
    return f"{'. '.join(sentences)}. PPCA needs {more} for what the VAE's {result.size.latent} give."
