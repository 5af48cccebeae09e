"""One step of a VAE."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import elbo
from elbo import optim
from elbo.models import vae

from .. import measure
from ..peers import Contender, reference
from ..peers.reference import Layers
from .problem import Answer, Problem, Target


class Vae(NamedTuple):
    """A batch for a Bernoulli VAE with one hidden layer each way, and where it starts; float32.

    Attributes:
      ys: [N, D] in {0, 1}.
      eta: [N, Q], the noise for the comparison of the answers.
      encoder, decoder: (kernel, bias) of each layer.
      rate: of Adam.
    """

    ys: np.ndarray
    eta: np.ndarray
    encoder: Layers
    decoder: Layers
    rate: float

    def answer(self, loss, gradient) -> Answer:
        """−L per datum, and its gradient: kernel and bias of each layer, the encoder's first."""
        return {"loss": np.asarray(loss), "gradient": tuple(np.asarray(g) for g in gradient)}


_NOISE = 1  # the seed of the key of the comparison


def make_vae(data: int, size: int, hidden: int, latent: int) -> Vae:
    """Random binary images, random networks, and the noise that `vae_step` draws from the key of the comparison."""
    rng = np.random.default_rng(0)

    def layers(*widths):
        pairs = zip(widths[:-1], widths[1:], strict=True)
        return [
            (
                (rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32),
                0.1 * rng.standard_normal(b).astype(np.float32),
            )
            for a, b in pairs
        ]

    ys = (rng.random((data, size)) < rng.random(size)).astype(np.float32)
    unit = elbo.NormalPosterior(jnp.zeros(latent, jnp.float32), jnp.zeros(latent, jnp.float32))
    eta = jax.vmap(unit.sample)(jax.random.split(jax.random.key(_NOISE), data))
    return Vae(ys, np.array(eta), layers(size, hidden, 2 * latent), layers(latent, hidden, size), 1e-3)


def our_vae(data: Vae) -> Contender:
    """One update of `vae_step` with Adam."""
    latent, hidden = data.eta.shape[1], data.encoder[0][0].shape[1]
    networks, shaped = vae.build(jax.random.key(0), data.ys.shape[1], latent, hidden=(hidden,))
    model = vae.model(networks)
    rule = optim.vae_step(model, optax.adam(data.rate))
    ys = jnp.asarray(data.ys)

    def network(layers):
        named = {i: {"bias": jnp.array(b), "kernel": jnp.array(w)} for i, (w, b) in enumerate(layers)}
        return {"layers": named}

    def start():
        params = elbo.Params(network(data.decoder), network(data.encoder))
        assert jax.tree.structure(params) == jax.tree.structure(shaped)
        return params

    def step(key, params, state, ys):
        key, sample_key = jax.random.split(key)
        return key, *rule.update(sample_key, params, state, ys)

    def answer():
        # an optimiser that moves nothing and keeps the gradient as its state
        keep = optax.GradientTransformation(optax.tree.zeros_like, lambda g, s, p=None: (optax.tree.zeros_like(g), g))
        checked = optim.vae_step(model, keep)
        params = start()
        _, gradient, info = jax.jit(checked.update)(jax.random.key(_NOISE), params, checked.init(params), ys)
        layers = [net["layers"][i] for net in (gradient.psi, gradient.theta) for i in (0, 1)]
        return data.answer(-info.elbo, [part for layer in layers for part in (layer["kernel"], layer["bias"])])

    carry = jax.random.key(0), start(), rule.init(start())
    compiled = measure.compile_program(jax.jit(step, donate_argnums=(0, 1, 2)), *carry, ys)
    return Contender("elbo", "", answer, measure.carried(compiled, carry, ys), compiled)


def vae_flops(data: Vae) -> float:
    """The products with the four kernels: one forward, two backward, but none for the gradient in the data."""
    kernels = [w.size for w, _ in (*data.encoder, *data.decoder)]
    return 2.0 * len(data.ys) * (3 * sum(kernels) - kernels[0])


VAES = (
    Problem(
        name="vae",
        description="VAE, MLP 784-400-20, Bernoulli, batch 128, one sample per datum, one Adam step",
        unit="step",
        task="vae",
        make=make_vae,
        sizes=dict(data=128, size=784, hidden=400, latent=20),
        tiny=dict(data=8, size=12, hidden=7, latent=3),
        ours=our_vae,
        reference=lambda data: data.answer(*reference.vae(data.encoder, data.decoder, data.ys, data.eta)),
        tolerance={"loss": 1e-5, "gradient": 1e-4},
        flops=vae_flops,
        counted="products with the kernels, forward and backward",
        peers=("flax+optax", "numpyro", "torch"),
        targets=(Target("at most the time of a plain flax+optax loop", 1, ("flax+optax",)),),
    ),
)
