"""Acoustic units without labels: the states of an HMM-VAE on spoken digits, beside those of plainer models."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

import elbo
from elbo import optim
from elbo.models import hmm, hmm_inference, hmm_vae, mixture
from elbo.models.families import Normal

from .. import datasets, speech

PIECES = 5
GMM, EM, GRADIENT = "plain VAE, then a mixture", "HMM-VAE, EM and gradient", "HMM-VAE, gradient on everything"


class Size(NamedTuple):
    """How large: states of every model, the networks, passes over the data in each of the two stages."""

    states: int = 30
    latent: int = 6
    hidden: int = 64
    context: int = 1
    epochs: int = 40
    batch: int = 45


class Units(NamedTuple):
    """States found by one model.

    Attributes:
      states: decoded, int [N, T] of the test takes, −1 in the padding.
      purity: share of the frames whose digit is the most frequent one of their state; training and test takes.
      information: I(state; digit) of the test frames, bits.
      bound: ln P or its lower bound, nats per test frame.
      seconds: of training, without compiling where that can be told.
    """

    states: np.ndarray
    purity: tuple[float, float]
    information: float
    bound: float
    seconds: float


class Result(NamedTuple):
    """The test takes and what was found in them; `chance`: the share of the most frequent digit's frames."""

    size: Size
    features: np.ndarray  # [N, T, D]
    labels: np.ndarray
    units: dict[str, Units]
    vae_bound: float
    chance: float


def compute(tell: Callable[[str], None], size: Size | None = None, data: datasets.Speech | None = None) -> Result:
    """Everything, in float32: two Gaussian HMMs, a VAE, and from that VAE on three ways to go on."""
    size, data = size or Size(), data or datasets.spoken_digits()
    train, test = (frames(data, part) for part in (~data.is_test, data.is_test))
    labels = [data.labels[part] for part in (~data.is_test, data.is_test)]
    key = jax.random.key(0)

    def found(decode, bound, seconds):
        states = [np.asarray(decode(ys)) for ys in (train, test)]
        purities = [score(s, d) for s, d in zip(states, labels, strict=True)]
        return Units(
            states[1], (purities[0][0], purities[1][0]), purities[1][1], bound / int(test.length.sum()), seconds
        )

    units = {}
    for name, family in _families(size, train).items():
        tell(f"{name} covariances")
        units[f"{name} covariances"] = found(*_plain(key, size, family, train, test))

    tell("VAE")
    networks, params = hmm_vae.build(
        key, train, 1, size.latent, hidden=(size.hidden,), likelihood="gaussian", context=size.context
    )
    one, many = (hmm_vae.model(networks, k, "gaussian", context=size.context) for k in (1, size.states))
    first, _ = _train(composed(one, size), params, train, size, 1)
    tell("VAE, second stage, and a mixture of its means")
    second, seconds = _train(composed(one, size), first, train, size, 2)
    vae_bound = _bound(one, second, test)
    units[GMM] = found(_mixture(key, size, one, second, train), vae_bound, seconds)

    tell("HMM-VAE")
    chains = hmm.model(size.states)
    start = hmm_vae.cluster(key, one, first, train, size.states)
    for name, rule in ((EM, composed(many, size)), (GRADIENT, plain_gradient(many, size))):
        fitted, seconds = _train(rule, start, train, size, 2)
        decode = lambda ys, fitted=fitted: (
            hmm_inference.decode(chains, elbo.Params(fitted.theta.chain), hmm_vae.means(many, fitted, ys)).states
        )
        units[name] = found(decode, _bound(many, fitted, test), seconds)
    counts = np.bincount(np.repeat(labels[1], np.asarray(test.length)))
    features = np.asarray(test.values)
    return Result(size, features, labels[1], units, vae_bound / int(test.length.sum()), counts.max() / counts.sum())


def frames(data: datasets.Speech, part: np.ndarray) -> elbo.Padded:
    """Log-mel frames of some of the takes; each padded to the longest of all."""
    longest = max(speech.frames(len(w), data.rate) for w in data.waves)
    each = [speech.log_mel(data.waves[i], data.rate) for i in np.flatnonzero(part)]
    values = np.stack([np.pad(f, ((0, longest - len(f)), (0, 0))) for f in each])
    return elbo.Padded(jnp.asarray(values), jnp.array([len(f) for f in each], jnp.int32))


def score(states: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Purity of the states and I(state; label) in bits, over the frames that are not padding."""
    inside = states >= 0
    table = np.zeros((states.max() + 1, labels.max() + 1))
    np.add.at(table, (states[inside], np.broadcast_to(labels[:, None], states.shape)[inside]), 1)
    p = table / table.sum()
    independent = p.sum(1, keepdims=True) * p.sum(0)
    information = np.sum(p[p > 0] * np.log2(p[p > 0] / independent[p > 0]))
    return float(table.max(1).sum() / table.sum()), float(information)


def composed(model: elbo.Model, size: Size) -> optim.Rule:
    """Closed-form EM on the HMM, from running averages, and a reparameterised gradient on the networks."""
    block = optim.damp(model, optim.em_step(model, keep=True), 0.1)
    networks = optim.restrict(optim.vae_step(model, optax.adam(2e-3)), "theta.decoder", "psi.encoder")
    return optim.minibatches(optim.chain(block, networks), size.batch)


def plain_gradient(model: elbo.Model, size: Size) -> optim.Rule:
    """The reparameterised gradient on everything."""
    return optim.minibatches(optim.vae_step(model, optax.adam(2e-3)), size.batch)


def _families(size: Size, train: elbo.Padded) -> dict[str, Any]:
    shape = size.states, train.values.shape[-1]
    diagonal = Normal.create(jnp.zeros(shape), jnp.ones(shape), floor=1e-2)
    return {"Gaussian HMM, diagonal": diagonal, "Gaussian HMM, full": None}


def _plain(key, size, family, train, test):
    model, start = hmm.model(size.states), hmm.init(key, train, size.states, family=family)
    begin = time.perf_counter()
    params = jax.block_until_ready(optim.run(optim.em_step(model), start, train, steps=60).params)
    seconds = time.perf_counter() - begin
    decode = lambda ys: hmm_inference.decode(model, params, ys).states
    return decode, float(elbo.evidence(model)(params, test).sum()), seconds


def _mixture(key, size, model, params, train):
    """Decodes the frames of the VAE's means one by one, by a mixture fitted to those of the training takes."""

    def flat(ys):
        x = hmm_vae.means(model, params, ys)
        return x.values, np.asarray(jax.vmap(lambda y: y.mask())(x))

    values, inside = flat(train)
    data, gmm = values[inside], mixture.model(size.states)
    fitted = optim.run(optim.em_step(gmm), mixture.init(key, data, size.states), data, steps=60).params
    nearest = jax.jit(jax.vmap(jax.vmap(lambda x: jnp.argmax(gmm.encoder(fitted.psi, x).mean()))))

    def decode(ys):
        values, inside = flat(ys)
        return np.where(inside, nearest(values), -1)

    return decode


def _train(rule, params, train, size, stage):
    begin = time.perf_counter()
    run = optim.run(rule, params, train, key=jax.random.key(stage), steps=size.epochs)
    jax.block_until_ready(run.params)
    return run.params, time.perf_counter() - begin


def _bound(model, params, test, samples=20):
    """L of the test takes, the mean over samples of x, nats in all."""
    value = elbo.elbo(model)
    return float(np.mean([value(params, test, k).sum() for k in jax.random.split(jax.random.key(9), samples)]))


def table(result: Result) -> Table:
    """What to print."""
    out = Table(
        title=f"Spoken digits, {result.size.states} states or components, no labels: do states stand for digits?",
        caption="Purity: share of frames whose digit is the most frequent of their state. ln P: nats per test frame; "
        "for the VAEs a lower bound. Seconds: training, with compiling (of the VAEs: the second stage).",
    )
    for i, name in enumerate(("model", "purity, training", "purity, test", "I(state; digit), bits", "ln P", "seconds")):
        out.add_column(name, justify="right" if i else "left")
    for name, u in result.units.items():
        numbers = (
            f"{u.purity[0]:.3f}",
            f"{u.purity[1]:.3f}",
            f"{u.information:.2f}",
            f"{u.bound:.2f}",
            f"{u.seconds:.0f}",
        )
        out.add_row(name, *numbers)
    return out


def figures(result: Result) -> dict:
    """Every number, for demo.json."""
    units = {name: u._replace(states=None)._asdict() for name, u in result.units.items()}
    for u in units.values():
        del u["states"]
    return {"unit": "nats per frame", "chance": result.chance, "units": units, "conclusion": conclusion(result)}


def conclusion(result: Result) -> str:
    """What holds of the claims that one would make."""
    units, test = result.units, lambda name: result.units[name].purity[1]
    best = max(units, key=test)
    claims = {
        "states of an HMM-VAE are purer than a mixture of a plain VAE's means": test(EM) > test(GMM),
        "its bound is higher than the plain VAE's": units[EM].bound > result.vae_bound,
        "EM on its HMM ends higher than the gradient on everything": units[EM].bound > units[GRADIENT].bound,
        "its states are purer than those of a Gaussian HMM on the same features": test(EM)
        > max(u.purity[1] for name, u in units.items() if name.startswith("Gaussian")),
    }
    said = "; ".join(f"{claim}: {'holds' if holds else 'does not hold'}" for claim, holds in claims.items())
    return (
        f"On the test takes {said}. Purest: {best}, {test(best):.2f} (HMM-VAE {test(EM):.2f}, VAE and mixture "
        f"{test(GMM):.2f}, always the same state {result.chance:.2f})."
    )
