"""EM: exact E step, exact M step."""

from typing import Any

import jax
import jax.numpy as jnp

from elbo import Model, Params, is_family, remembered
from elbo.estimators import Estimator

from .chunks import ChunkSize
from .guard import keep_finite
from .priors import add_prior, log_prior
from .rule import Info, Rule
from .statistics import Statistics, count_empty, count_floored, expected_statistics, maximize

Tree = Any


@remembered
def em_step(
    model: Model,
    *,
    prior: Tree = None,
    chunk_size: ChunkSize = "auto",
    estimator: Estimator | None = None,
    keep: bool = False,
) -> Rule:
    """EM (Dempster, Laird & Rubin 1977) as a rule: Ψ ← argmax L, the exact posterior, then Θ ← argmax L in closed form.

    No update decreases the objective, ln P_Θ(ys) + ln prior. The rule has no state and needs no key.

    Args:
      model: with an exact encoder, and families as the leaves of theta.
      prior: theta with each family replaced by a prior, such as `PseudoData`, or None (MAP-EM).
      chunk_size: data looked at in one go, see `expected_statistics`. By default as many as keep the largest array of a
        chunk below 3 MB on a CPU (384 data for 32 components in 64 dimensions), below 256 MB elsewhere.
      estimator: how to take the expectation; `Automatic` by default.
      keep: what to do with leaves of theta that are not in a family and so have no closed form: raise, or keep them.

    >>> import elbo
    >>> from models.families import Bernoulli
    >>> log_joint = lambda theta, z, y: jnp.dot(z, jnp.log(0.5) + theta.log_prob(y))  # two coins, one is thrown
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(2)))
    >>> coins = Bernoulli.create(jnp.array([[0.4], [0.6]]))
    >>> rule = em_step(model)
    >>> params, state, info = rule.update(None, Params(coins, coins), (), jnp.array([[1.0], [1.0], [0.0]]))
    >>> params.theta.probabilities()[:, 0].tolist(), info.elbo.tolist()
    ([0.5714, 0.75], -0.6931)
    """

    def init(params: Params) -> tuple:
        require_families(params.theta, keep)
        exact_e_step(model, params)
        return ()

    def update(key, params, state, ys, *, weights=None):
        require_families(params.theta, keep)
        theta = params.theta
        tied = Params(theta, exact_e_step(model, params))
        statistics = expected_statistics(
            model, tied, ys, weights=weights, key=key, estimator=estimator, chunk_size=chunk_size
        )
        new = maximize(theta, statistics, prior=prior)
        new, finite = keep_finite(new, theta)
        # the next E step is a copy, so it is taken at once: what is returned is a model with its own posterior
        return Params(new, exact_e_step(model, Params(new, tied.psi))), state, info_of(theta, statistics, prior, finite)

    return Rule(init, jax.jit(update))


def info_of(theta: Tree, statistics: Statistics, prior: Tree, finite: jax.Array) -> Info:
    """What the statistics say of the parameters that they were measured with."""
    total = jnp.where(statistics.weight > 0, statistics.weight, 1)
    bound = jnp.where(statistics.weight > 0, statistics.elbo / total, jnp.nan)
    empty = count_empty(theta, add_prior(theta, statistics.families, prior))
    return Info(
        elbo=bound,
        objective=bound + log_prior(theta, prior) / total,
        feasible=statistics.dropped == 0,
        dropped=statistics.dropped,
        empty=empty,
        finite=finite,
        floored=count_floored(theta),
        weight=statistics.weight,
    )


def exact_e_step(model: Model, params: Params) -> Tree:
    """argmax over Ψ of L at Θ, as the model's encoder gives it; raises if the encoder has no exact E step."""
    step = getattr(model.encoder, "e_step", None)
    if step is None:
        raise TypeError(
            f"model.encoder: {model.encoder!r} has no exact E step (no method `e_step(theta, psi)`). Make it by "
            "elbo.exact(log_joint, structure), or use a rule with a gradient E step: vem_step or vae_step"
        )
    return step(params.theta, params.psi)


def require_families(theta: Tree, keep: bool) -> None:
    """Raises if theta has a leaf without a closed-form M step, unless it is to be kept as it is."""
    leaves = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta, is_leaf=is_family)
        if not is_family(leaf)
    ]
    if leaves and not keep:
        names = ", ".join("theta" + jax.tree_util.keystr(path) for path, _ in leaves[:5])
        raise TypeError(
            f"theta: {names} {'has' if len(leaves) == 1 else 'have'} no closed-form M step (not a Family). Make it a "
            "family, move it with eg_step or vae_step, or pass keep=True to leave it as it is"
        )
