"""A VAE as one writes it by hand with flax and optax: linen modules, a loss over the batch, one jitted step."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from .. import measure
from . import Contender

if TYPE_CHECKING:
    from ..problems import Vae

MODULE = "flax"
INSTALL = "pip install flax optax"


class MLP(nn.Module):
    """Two dense layers with a ReLU between them."""

    hidden: int
    out: int

    @nn.compact
    def __call__(self, x):
        """[..., D] to [..., out]."""
        return nn.Dense(self.out, name="second")(nn.relu(nn.Dense(self.hidden, name="first")(x)))


def vae(data: "Vae") -> list[Contender]:
    """One Adam step on −L per datum: one sample per datum, the KL in closed form."""
    latent, hidden = data.eta.shape[1], data.encoder[0][0].shape[1]
    encoder, decoder = MLP(hidden, 2 * latent), MLP(hidden, data.ys.shape[1])
    optimizer = optax.adam(data.rate)

    def loss(params, ys, eta):
        mean, log_scale = jnp.split(encoder.apply(params["encoder"], ys), 2, axis=-1)
        logits = decoder.apply(params["decoder"], mean + jnp.exp(log_scale) * eta)
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 2 * log_scale - 1, -1)
        return jnp.mean(kl + jnp.sum(optax.sigmoid_binary_cross_entropy(logits, ys), -1))

    def step(key, params, state, ys):
        key, sample_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(params, ys, jax.random.normal(sample_key, (len(ys), latent)))
        updates, state = optimizer.update(gradient, state, params)
        return key, optax.apply_updates(params, updates), state, value

    def start():
        return {"encoder": _linen(data.encoder), "decoder": _linen(data.decoder)}

    def answer():
        value, gradient = jax.jit(jax.value_and_grad(loss))(start(), data.ys, data.eta)
        layers = [gradient[net]["params"][layer] for net in ("encoder", "decoder") for layer in ("first", "second")]
        return data.answer(value, [part for layer in layers for part in (layer["kernel"], layer["bias"])])

    ys = jnp.asarray(data.ys)
    carry = jax.random.key(0), start(), optimizer.init(start())
    compiled = measure.compile_program(jax.jit(step, donate_argnums=(0, 1, 2)), *carry, ys)
    return [Contender("flax+optax", "", answer, measure.carried(compiled, carry, ys), compiled)]


def _linen(layers):
    names = ("first", "second")
    return {
        "params": {n: {"kernel": jnp.array(w), "bias": jnp.array(b)} for n, (w, b) in zip(names, layers, strict=True)}
    }


TASKS = {"vae": vae}
