"""EG, expected gradient: exact E step, gradient M step."""

from dataclasses import replace

import optax

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, value

from ._arguments import require_model, require_optimizer, require_params
from ._ascent import Ascent, Measured, Problem, ascend, climb, measure
from ._e_step import exact_e_step
from ._moving import moves
from ._passes import no_trial, once
from ._rule import Rule, rule_of


def eg_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    prior: PyTree = None,
    chunk_size: ChunkSize = "auto",
    estimator: Estimator | None = None,
) -> Rule:
    """Ψ ← the exact posterior, then one optimiser step in Θ on E_q ln P_Θ(z, y) at that fixed q.

    By Fisher's identity this is a step on ln P_Θ(y): the expectation is exact, nothing is sampled. CTC is of this kind.

    Args:
      model: with an exact encoder; theta is any pytree of floating-point arrays and families.
      optimizer: an optax optimiser for theta. Line searches (`optax.lbfgs()`) are given ln P_Θ(y) to evaluate.
      prior: theta with each family replaced by a prior, or None.
      chunk_size: data in one chunk, as in `em_step`; None for all.
      estimator: how to take the expectation; `Automatic` by default.

    >>> import elbo, jax, jax.numpy as jnp
    >>> log_joint = lambda theta, z, y: z @ jax.nn.log_sigmoid(theta * (2 * y - 1))  # two coins, thrown in turn
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> rule, params = eg_step(model, optax.sgd(1.0)), Params(jnp.zeros(2), jnp.zeros(2))
    >>> rule.update(None, params, rule.init(params), jnp.ones(3))[0].theta.tolist()
    [0.25, 0.25]
    """
    require_model(model)
    require_optimizer(optimizer)
    return rule_of(_EG(Ascent(model, optimizer, prior, estimator, chunk_size)))


@value
class _EG:
    ascent: Ascent
    where: tuple = ()

    def init(self, params: Params) -> PyTree:
        require_params(params)
        exact_e_step(self.ascent.model, params)
        return self.ascent.init(params.theta, moves(params, self.where).theta)

    def update(self, key, params, state, ys, *, weights=None):
        require_params(params)
        theta, state, info = ascend(*self._problem(params), state, ys, weights, key)
        return self._followed(params, theta), state, info

    def measure(self, key, params, state, ys, weights) -> Measured:
        return measure(*self._problem(params), ys, weights, key)

    def advance(self, params, state, measured):
        theta, state, info = climb(*self._problem(params), state, measured, no_trial)
        return self._followed(params, theta), state, info

    def stream(self, key, params, state, source):
        return once(self, key, params, state, source)

    def _problem(self, params: Params) -> Problem:
        def assemble(theta, at):
            return Params(theta, exact_e_step(self.ascent.model, Params(at, params.psi)))

        return self.ascent, assemble, params.theta, moves(params, self.where).theta

    def _followed(self, params: Params, theta: PyTree) -> Params:
        """The posterior follows theta."""
        return Params(theta, None if params.psi is None else exact_e_step(self.ascent.model, Params(theta, params.psi)))

    def rebuild(self, *, where=(), rate=None, total=None):
        if rate is not None:
            return None
        return rule_of(replace(self, ascent=self.ascent.with_total(total), where=(*self.where, *where)))
