"""Variational EM: gradient E step, exact M step."""

from typing import Any

import jax
import optax

from elbo import Model, Params
from elbo.estimators import Estimator

from .chunks import ChunkSize
from .em import info_of, require_families
from .gradient import Ascent, ascend
from .guard import keep_finite
from .rule import Rule
from .statistics import expected_statistics, maximize

Tree = Any


def vem_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    prior: Tree = None,
    chunk_size: ChunkSize = None,
    estimator: Estimator | None = None,
    keep: bool = False,
) -> Rule:
    """One optimiser step in Ψ on L, then Θ ← argmax L in closed form, at the new q.

    Args:
      model: with any encoder, and families as the leaves of theta.
      optimizer: an optax optimiser for psi.
      prior: theta with each family replaced by a prior, or None.
      chunk_size: data looked at in one go; all by default; "auto" for as many as the fast memory holds.
      estimator: how to take the expectation; `Automatic` by default.
      keep: what to do with leaves of theta that are not in a family: raise, or keep them.

    The `Info` is measured after the step in Ψ and before the one in Θ.

    >>> import elbo, jax.numpy as jnp
    >>> from models import factor_analysis
    >>> ys = jax.random.normal(jax.random.key(0), (50, 3))
    >>> theta = factor_analysis.init(jax.random.key(1), ys, 1).theta
    >>> rule = vem_step(factor_analysis.amortized(), optax.adam(0.1))
    >>> params = Params(theta, factor_analysis.init_linear_encoder(theta))
    >>> params, state, first = rule.update(None, params, rule.init(params), ys)
    >>> params, state, second = rule.update(None, params, state, ys)
    >>> bool(second.elbo > first.elbo)
    True
    """
    ascent = Ascent(model, optimizer, None, estimator, chunk_size)

    def init(params: Params) -> Tree:
        require_families(params.theta, keep)
        return optimizer.init(params.psi)

    def update(key, params, state, ys, *, weights=None):
        require_families(params.theta, keep)
        theta = params.theta
        e_key, m_key = (None, None) if key is None else jax.random.split(key)
        psi, state, moved = ascend(ascent, lambda psi: Params(theta, psi), params.psi, state, ys, weights, e_key)
        statistics = expected_statistics(
            model, Params(theta, psi), ys, weights=weights, key=m_key, estimator=estimator, chunk_size=chunk_size
        )
        new, finite = keep_finite(maximize(theta, statistics, prior=prior), theta)
        return Params(new, psi), state, info_of(theta, statistics, prior, finite & moved.finite)

    return Rule(init, jax.jit(update))
