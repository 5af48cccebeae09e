"""numpyro's SVI with TraceMeanField_ELBO, which takes the KL in closed form."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

from .. import measure
from . import Contender

if TYPE_CHECKING:
    from ..problems import Vae

MODULE = "numpyro"
INSTALL = "pip install numpyro"


def vae(data: "Vae") -> list[Contender]:
    """One `SVI.update` with Adam on −L per datum."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro import handlers
    from numpyro.infer import SVI, TraceMeanField_ELBO
    from numpyro.optim import optax_to_numpyro

    latent, size = data.eta.shape[1], len(data.ys)

    def network(name, layers, x):
        (a, b), (c, d) = [
            (numpyro.param(f"{name}.{i}.kernel", jnp.array(w)), numpyro.param(f"{name}.{i}.bias", jnp.array(v)))
            for i, (w, v) in enumerate(layers)
        ]
        return jax.nn.relu(x @ a + b) @ c + d

    # the scale makes its loss, a sum over the data, ours, which is per datum
    def model(ys):
        with numpyro.plate("data", size), handlers.scale(scale=1 / size):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1).to_event(1))
            logits = network("decoder", data.decoder, z)
            numpyro.sample("y", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=ys)

    def guide(ys):
        with numpyro.plate("data", size), handlers.scale(scale=1 / size):
            mean, log_scale = jnp.split(network("encoder", data.encoder, ys), 2, axis=-1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    def given_noise(site):
        if site["type"] == "sample" and site["name"] == "z":
            return site["fn"].base_dist.loc + site["fn"].base_dist.scale * data.eta
        return None

    ys = jnp.asarray(data.ys)

    def answer():
        fixed = handlers.substitute(guide, substitute_fn=given_noise)
        params = SVI(model, guide, optax_to_numpyro(optax.adam(data.rate)), TraceMeanField_ELBO()).init(
            jax.random.key(0), ys
        )
        start = svi.get_params(params)
        loss = lambda p: TraceMeanField_ELBO().loss(jax.random.key(0), p, model, fixed, ys)
        value, gradient = jax.jit(jax.value_and_grad(loss))(start)
        names = [f"{net}.{i}.{part}" for net in ("encoder", "decoder") for i in (0, 1) for part in ("kernel", "bias")]
        return data.answer(value, [gradient[name] for name in names])

    svi = SVI(model, guide, optax_to_numpyro(optax.adam(data.rate)), TraceMeanField_ELBO())
    carry = (svi.init(jax.random.key(0), ys),)
    compiled = measure.compile_program(jax.jit(svi.update, donate_argnums=0), *carry, ys)
    return [Contender("numpyro", "", answer, measure.carried(compiled, carry, ys), compiled)]


TASKS = {"vae": vae}
