"""A VAE on MNIST, at full size, from a file of yours."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

from elbo import optim
from elbo.models import vae

from .. import datasets
from .autoencoder import BATCH, Scores, bits, codes, score, train


class Size(NamedTuple):
    """How much of everything; validate: training images on which the best epoch is chosen; test: held-out images."""

    train: int = 60000
    validate: int = 5000
    test: int = 10000
    latent: int = 20
    hidden: tuple[int, ...] = (400, 400)
    epochs: int = 30
    patience: int = 5
    samples: int = 100


FULL = Size()
PIECES = FULL.epochs + 1


class Result(NamedTuple):
    """The VAE's scores, and pictures by name of the row."""

    scores: Scores
    pictures: dict[str, np.ndarray]
    size: Size
    pixels: int


def compute(tell: Callable[[str], None], data: datasets.Mnist, size: Size = FULL) -> Result:
    """Bernoulli pixels: 1 with the grey level as probability, drawn anew for each epoch (once for the test set)."""
    grey, held_out = jnp.asarray(data.train[: size.train]), jnp.asarray(data.test[: size.test])
    order_key, validation_key, test_key, key = jax.random.split(jax.random.key(0), 4)
    grey = grey[jax.random.permutation(order_key, len(grey))]

    @jax.jit
    def binarise(key, grey):
        return jax.random.bernoulli(key, grey).astype(grey.dtype)

    fitting, validation = grey[size.validate :], binarise(validation_key, grey[: size.validate])
    test = binarise(test_key, held_out)
    tell(f"MNIST: VAE, up to {size.epochs} epochs")
    begin = time.perf_counter()
    networks, params = vae.build(key, grey.shape[1], size.latent, hidden=size.hidden, activation=nnx.silu)
    model = vae.model(networks)
    schedule = optax.cosine_decay_schedule(1e-3, size.epochs * -(-len(fitting) // BATCH))
    rule = optim.minibatches(optim.vae_step(model, optax.adam(schedule)), BATCH)
    best = train(
        *(rule, model, params, lambda k: binarise(k, fitting), validation),
        key=key,
        rounds=size.epochs,
        epochs=1,
        patience=size.patience,
        report=lambda i, bound: tell(f"MNIST: epoch {i}, validation {bound:.2f} nats"),
    )
    seconds = time.perf_counter() - begin
    scored = score(model, best.params, test, binarise(key, fitting[: size.test]), size.samples)
    scores = Scores("Bernoulli", *scored, seconds, (best.round, size.epochs))
    shown = test[:12]
    decoded = jax.vmap(networks.decode, (None, 0))(best.params.theta, codes(model, best.params, shown))
    drawn = vae.sample(key, networks, best.params.theta, size.latent, 12)[1]
    pictures = {"held out": shown, "VAE": jax.nn.sigmoid(decoded), "VAE samples": jax.nn.sigmoid(drawn)}
    pictures = {name: np.asarray(rows).reshape(-1, 28, 28) for name, rows in pictures.items()}
    return Result(scores, pictures, size, grey.shape[1])


def table(result: Result) -> Table:
    """What to print."""
    row, size = figures(result), result.size
    layers = "-".join(map(str, (result.pixels, *size.hidden, size.latent)))
    out = Table(
        title=f"MNIST: VAE {layers}, Bernoulli pixels binarised at random anew each epoch, minibatches of {BATCH}",
        caption=f"Nats per image. IW: importance-weighted, {size.samples} samples.",
    )
    for name in ("train", "test", "± s.e.", "bits/dim", "IW test", "IW bits/dim", "best epoch", "seconds"):
        out.add_column(name, justify="right")
    out.add_row(
        *(f"{row['train']:.2f}", f"{row['bound']:.2f}", f"{row['standard_error']:.2f}"),
        *(f"{row['bits_per_dimension']:.4f}", f"{row['importance_weighted']:.2f}"),
        f"{row['importance_weighted_bits_per_dimension']:.4f}",
        *(f"{row['best_epoch']} of {size.epochs}", f"{row['seconds']:.0f}"),
    )
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    scores = result.scores
    bound, tighter = float(np.mean(scores.bound)), float(np.mean(scores.tighter))
    return {
        "unit": "nats per test image",
        "size": result.size._asdict(),
        "train": scores.train,
        "bound": bound,
        "standard_error": float(np.std(scores.bound) / len(scores.bound) ** 0.5),
        "bits_per_dimension": bits(bound, result.pixels, 1),
        "importance_weighted": tighter,
        "importance_weighted_bits_per_dimension": bits(tighter, result.pixels, 1),
        "best_epoch": scores.rounds and scores.rounds[0],
        "seconds": scores.seconds,
        "conclusion": f"MNIST: test bound {bound:.2f} nats, {bits(bound, result.pixels, 1):.4f} bits per dimension.",
    }
