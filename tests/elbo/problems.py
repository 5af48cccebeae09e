"""Small models whose evidence is known without the toolkit, and the few helpers that several test files need."""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import elbo


class Problem(NamedTuple):
    model: elbo.Model
    params: elbo.Params  # psi is not theta
    ys: Any
    log_evidence: np.ndarray  # [N], by numpy and scipy


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers in the default dtype, made with numpy."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def mixture() -> Problem:
    """Three unit Gaussians in the plane."""

    def log_joint(theta, z, y):
        log_pi = jax.nn.log_softmax(theta["logits"])
        return z @ (log_pi - 0.5 * jnp.sum((y - theta["means"]) ** 2, -1) - jnp.log(2 * jnp.pi))

    theta = {"logits": normal(0, 3), "means": 2 * normal(1, 3, 2)}
    psi = {"logits": normal(2, 3), "means": 2 * normal(3, 3, 2)}
    ys = 3 * normal(4, 7, 2)
    pi = np.exp(theta["logits"]) / np.exp(theta["logits"]).sum()
    densities = [p * scipy.stats.multivariate_normal(m).pdf(ys) for p, m in zip(pi, theta["means"], strict=True)]
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(3)))
    return Problem(model, elbo.Params(theta, psi), ys, np.log(sum(densities)))


def bits() -> Problem:
    """Four independent bits, each seen through Gaussian noise."""

    def log_joint(theta, z, y):
        on = jax.nn.log_sigmoid(theta) - 0.5 * (y - 1) ** 2
        off = jax.nn.log_sigmoid(-theta) - 0.5 * y**2
        return jnp.sum(z * on + (1 - z) * off) - 2 * jnp.log(2 * jnp.pi)

    theta, ys = normal(5, 4), 2 * normal(6, 5, 4)
    p = 1 / (1 + np.exp(-np.asarray(theta)))
    values = [np.array(z) for z in product([0, 1], repeat=4)]
    log_priors = [np.sum(z * np.log(p) + (1 - z) * np.log(1 - p)) for z in values]
    joint = [lp + scipy.stats.norm(z, 1).logpdf(ys).sum(-1) for lp, z in zip(log_priors, values, strict=True)]
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.bernoulli(4)))
    return Problem(model, elbo.Params(theta, normal(7, 4)), ys, scipy.special.logsumexp(joint, axis=0))


def linear_gaussian() -> Problem:
    """Factor analysis: y = W z + b + noise; log_joint is a tuple (prior, likelihood)."""

    def log_joint(theta, z, y):
        r = (y - theta["w"] @ z - theta["b"]) * jnp.exp(-theta["log_noise"])
        prior = -0.5 * (z @ z + 2 * jnp.log(2 * jnp.pi))
        return prior, -0.5 * jnp.sum(r**2 + 2 * theta["log_noise"] + jnp.log(2 * jnp.pi))

    def parameters(seed):
        return {"w": normal(seed, 5, 2), "b": normal(seed + 1, 5), "log_noise": 0.3 * normal(seed + 2, 5)}

    theta, ys = parameters(8), 2 * normal(20, 6, 5)
    w, noise = np.asarray(theta["w"]), np.exp(2 * np.asarray(theta["log_noise"]))
    dense = scipy.stats.multivariate_normal(np.asarray(theta["b"]), w @ w.T + np.diag(noise))
    model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.gaussian(2)))
    return Problem(model, elbo.Params(theta, parameters(14)), ys, dense.logpdf(ys))


PROBLEMS: dict[str, Callable[[], Problem]] = {"mixture": mixture, "bits": bits, "linear_gaussian": linear_gaussian}


def amortised() -> tuple[elbo.Model, elbo.Params, jax.Array]:
    """A small VAE: normal prior, tanh decoder, linear encoder, as terms (prior, likelihood)."""

    def log_joint(theta, z, y):
        return elbo.NormalPosterior(jnp.zeros(2), jnp.zeros(2)).log_prob(z), -0.5 * jnp.sum(
            (y - theta @ jnp.tanh(z)) ** 2
        )

    model = elbo.Model(log_joint, lambda psi, y: elbo.NormalPosterior(psi @ y, -0.5 * jnp.ones(2)))
    return model, elbo.Params(normal(30, 3, 2), normal(31, 2, 3)), normal(32, 4, 3)


def within(samples: jax.Array, truth: Any, sigmas: float = 5.0) -> bool:
    """Whether averages over the leading axis agree with the truth; 5 sigma: a false alarm in two million numbers."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0) / len(samples) ** 0.5
    return bool(np.all(np.abs(samples.mean(0) - np.asarray(truth)) <= sigmas * error + 1e-12))
