"""Variational EM: gradient E step, exact M step."""

from typing import Any

import jax
import optax

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, value

from ._arguments import require_model, require_optimizer, require_params
from ._ascent import Ascent, ascend
from ._e_step import expected_statistics
from ._m_step import MStep
from ._moving import moves
from ._rule import Rule, rule_of


def vem_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    prior: PyTree = None,
    chunk_size: ChunkSize = "auto",
    estimator: Estimator | None = None,
    keep: bool = False,
) -> Rule:
    """One optimiser step in Ψ on L, then Θ ← argmax L in closed form, at the new q.

    Args:
      model: with any encoder, and families as the leaves of theta.
      optimizer: an optax optimiser for psi.
      prior: theta with each family replaced by a prior, or None.
      chunk_size: data in one chunk, as in `em_step`; None for all.
      estimator: how to take the expectation; `Automatic` by default.
      keep: what to do with leaves of theta that are not in a family: raise, or keep them.

    The `Info` is measured after the step in Ψ and before the one in Θ.

    >>> import elbo, jax.numpy as jnp
    >>> from elbo.models import factor_analysis
    >>> ys = jax.random.normal(jax.random.key(0), (50, 3))
    >>> theta = factor_analysis.init(jax.random.key(1), ys, 1).theta
    >>> rule = vem_step(factor_analysis.amortized(), optax.adam(0.1))
    >>> params = Params(theta, factor_analysis.init_linear_encoder(theta))
    >>> params, state, first = rule.update(None, params, rule.init(params), ys)
    >>> params, state, second = rule.update(None, params, state, ys)
    >>> bool(second.elbo > first.elbo)
    True
    """
    require_model(model)
    require_optimizer(optimizer)
    return rule_of(_VEM(Ascent(model, optimizer, None, estimator, chunk_size), MStep(prior, keep)))


@value
class _VEM:
    ascent: Ascent
    m_step: MStep
    where: tuple = ()

    def init(self, params: Params) -> tuple[PyTree, PyTree]:
        require_params(params)
        return self.ascent.init(params.psi, moves(params, self.where).psi), self.m_step.init(params)

    def update(self, key, params, state, ys, *, weights=None):
        require_params(params)
        ascent, chosen = self.ascent, moves(params, self.where).psi
        families = self.m_step.moving(params)
        e_key, m_key = (None, None) if key is None else jax.random.split(key)
        e_state, m_state = state

        def assemble(psi, at):
            return Params(params.theta, psi)

        psi, e_state, moved = ascend(ascent, assemble, params.psi, chosen, e_state, ys, weights, e_key)
        options: Any = dict(estimator=ascent.estimator, chunk_size=ascent.chunk_size, moving=families)
        statistics = expected_statistics(ascent.model, assemble(psi, psi), ys, weights=weights, key=m_key, **options)
        new, m_state, info = self.m_step.update(params, statistics, m_state)
        return Params(new, psi), (e_state, m_state), info._replace(finite=info.finite & moved.finite)

    def rebuild(self, *, where=(), rate=None, total=None):
        m_step = self.m_step.rebuild(where, rate)
        return rule_of(_VEM(self.ascent.with_total(total), m_step, (*self.where, *where)))
