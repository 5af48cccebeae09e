"""EM: exact E step, exact M step."""

from dataclasses import replace
from typing import Any

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, value

from ._arguments import require_model, require_params
from ._e_step import Statistics, exact_e_step, expected_statistics
from ._m_step import MStep
from ._passes import once
from ._rule import Rule, rule_of


def em_step(
    model: Model,
    *,
    prior: PyTree = None,
    chunk_size: ChunkSize = "auto",
    estimator: Estimator | None = None,
    keep: bool = False,
) -> Rule:
    """EM (Dempster, Laird & Rubin 1977) as a rule: Ψ ← argmax L, the exact posterior, then Θ ← argmax L in closed form.

    But for rounding no update decreases the objective, ln P_Θ(ys) + ln prior. The rule has no state and needs no key.

    Args:
      model: with an exact encoder, and families as the leaves of theta.
      prior: theta with each family replaced by a prior, such as `PseudoData`, or None (MAP-EM).
      chunk_size: data in one chunk, see `expected_statistics`. By default as many as keep the largest array of a
        chunk below 3 MB on a CPU (384 data for 32 components in 64 dimensions), below 256 MB elsewhere.
      estimator: how to take the expectation; `Automatic` by default.
      keep: what to do with leaves of theta that are not in a family and so have no closed form: raise, or keep them.

    >>> import elbo, jax.numpy as jnp
    >>> from elbo.models.families import Bernoulli
    >>> log_joint = lambda theta, z, y: jnp.dot(z, jnp.log(0.5) + theta.log_prob(y))  # two coins, one is thrown
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> coins = Bernoulli.create(jnp.array([[0.4], [0.6]]))
    >>> rule = em_step(model)
    >>> params, state, info = rule.update(None, Params.tied(coins), (), jnp.array([[1.0], [1.0], [0.0]]))
    >>> params.theta.probabilities()[:, 0].tolist(), info.elbo.tolist()
    ([0.5714, 0.75], -0.6931)
    """

    require_model(model)
    return rule_of(_EM(model, MStep(prior, keep), chunk_size, estimator))


@value
class _EM:
    model: Model
    m_step: MStep
    chunk_size: ChunkSize
    estimator: Estimator | None

    def init(self, params: Params) -> PyTree:
        require_params(params)
        exact_e_step(self.model, params)
        return self.m_step.init(params)

    def measure(self, key, params, state, ys, weights) -> Statistics:
        options: Any = dict(estimator=self.estimator, chunk_size=self.chunk_size, moving=self.m_step.moving(params))
        return expected_statistics(self.model, self._tied(params), ys, weights=weights, key=key, **options)

    def advance(self, params, state, measured):
        tied = self._tied(params)
        theta, state, info = self.m_step.update(tied, measured, state)
        # the next E step is a copy, so it is taken at once: what is returned is a model with its own posterior
        psi = None if params.psi is None else exact_e_step(self.model, Params(theta, tied.psi))
        return Params(theta, psi), state, info

    def update(self, key, params, state, ys, *, weights=None):
        require_params(params)
        return self.advance(params, state, self.measure(key, params, state, ys, weights))

    def stream(self, key, params, state, source):
        return once(self, key, params, state, source)

    def _tied(self, params: Params) -> Params:
        return Params(params.theta, exact_e_step(self.model, params))

    def rebuild(self, *, where=(), rate=None, total=None):
        if not where and rate is None:
            return None
        return rule_of(replace(self, m_step=self.m_step.rebuild(where, rate)))
