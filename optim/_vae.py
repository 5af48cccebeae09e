"""The VAE: gradient E step, gradient M step, both at once."""

from dataclasses import replace

import optax

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, value

from ._arguments import require_model, require_optimizer, require_params
from ._ascent import Ascent, Measured, Problem, ascend, climb, measure
from ._moving import moves
from ._passes import no_trial, once
from ._rule import Rule, rule_of


def vae_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    prior: PyTree = None,
    chunk_size: ChunkSize = "auto",
    estimator: Estimator | None = None,
) -> Rule:
    """One optimiser step in (Ψ, Θ) on L, its gradient exact or sampled as the estimator says (Kingma & Welling 2014).

    Args:
      model: any; psi and theta are pytrees of floating-point arrays and families.
      optimizer: an optax optimiser for `Params(theta, psi)`.
      prior: theta with each family replaced by a prior, or None.
      chunk_size: data in one chunk, as in `em_step`; None for all.
      estimator: how to take the expectation; by default the best that each term of log_joint allows,
        `Reparameterized()` for a network in z.

    >>> import elbo, jax.numpy as jnp
    >>> log_joint = lambda theta, z, y: -0.5 * jnp.sum((y - theta * z) ** 2 + z**2)
    >>> model = elbo.Model(log_joint, lambda psi, y: elbo.NormalPosterior(psi * y, jnp.zeros(1)))
    >>> rule, params = vae_step(model, optax.sgd(0.1)), Params(jnp.ones(()), jnp.zeros(()))
    >>> new, state, info = rule.update(None, params, rule.init(params), jnp.ones((4, 1)))  # exact: it needs no key
    >>> new.theta.tolist(), new.psi.tolist()
    (0.9, 0.1)
    """
    require_model(model)
    require_optimizer(optimizer)
    return rule_of(_VAE(Ascent(model, optimizer, prior, estimator, chunk_size)))


@value
class _VAE:
    ascent: Ascent
    where: tuple = ()

    def init(self, params: Params) -> PyTree:
        require_params(params)
        return self.ascent.init(params, moves(params, self.where))

    def update(self, key, params, state, ys, *, weights=None):
        require_params(params)
        return ascend(*self._problem(params), state, ys, weights, key)

    def measure(self, key, params, state, ys, weights) -> Measured:
        return measure(*self._problem(params), ys, weights, key)

    def advance(self, params, state, measured):
        return climb(*self._problem(params), state, measured, no_trial)

    def stream(self, key, params, state, source):
        return once(self, key, params, state, source)

    def _problem(self, params: Params) -> Problem:
        return self.ascent, lambda params, at: params, params, moves(params, self.where)

    def rebuild(self, *, where=(), rate=None, total=None):
        if rate is not None:
            return None
        return rule_of(replace(self, ascent=self.ascent.with_total(total), where=(*self.where, *where)))
