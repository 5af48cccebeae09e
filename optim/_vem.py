"""Variational EM: gradient E step, exact M step."""

from typing import Any

import jax
import optax

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, value

from ._arguments import require_model, require_optimizer, require_params
from ._ascent import Ascent, Measured, Problem, ascend, climb, measure
from ._e_step import Statistics, expected_statistics
from ._m_step import MStep
from ._moving import moves
from ._passes import no_trial, once
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
        self.m_step.moving(params)  # what it cannot move is told before anything is done
        e_state, m_state = state
        e_key, m_key = (None, None) if key is None else jax.random.split(key)
        psi, e_state, moved = ascend(*self._problem(params), e_state, ys, weights, e_key)
        params, state = Params(params.theta, psi), (e_state, m_state)
        closed = _MStep(self)
        params, state, info = closed.advance(params, state, closed.measure(m_key, params, state, ys, weights))
        return params, state, info._replace(finite=info.finite & moved.finite)

    def measure(self, key, params, state, ys, weights) -> Measured:
        return measure(*self._problem(params), ys, weights, key)

    def advance(self, params, state, measured):
        psi, e_state, info = climb(*self._problem(params), state[0], measured, no_trial)
        return Params(params.theta, psi), (e_state, state[1]), info

    def stream(self, key, params, state, source):
        e_key, m_key = (None, None) if key is None else jax.random.split(key)
        params, state, moved = once(self, e_key, params, state, source)
        params, state, info = once(_MStep(self), m_key, params, state, source)
        return params, state, info._replace(finite=info.finite & moved.finite)

    def _problem(self, params: Params) -> Problem:
        def assemble(psi, at):
            return Params(params.theta, psi)

        return self.ascent, assemble, params.psi, moves(params, self.where).psi

    def rebuild(self, *, where=(), rate=None, total=None):
        m_step = self.m_step.rebuild(where, rate)
        return rule_of(_VEM(self.ascent.with_total(total), m_step, (*self.where, *where)))


@value
class _MStep:
    """The second pass, at the new q."""

    step: _VEM

    def measure(self, key, params, state, ys, weights) -> Statistics:
        ascent = self.step.ascent
        families = self.step.m_step.moving(params)
        options: Any = dict(estimator=ascent.estimator, chunk_size=ascent.chunk_size, moving=families)
        return expected_statistics(ascent.model, params, ys, weights=weights, key=key, **options)

    def advance(self, params, state, measured):
        theta, m_state, info = self.step.m_step.update(params, measured, state[1])
        return Params(theta, params.psi), (state[0], m_state), info
