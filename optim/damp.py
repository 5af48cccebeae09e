"""Part of a closed-form step: what keeps EM stable where its statistics are noisy."""

from typing import Any

import jax

from elbo import Model, Params, is_family

from .guard import keep_finite
from .priors import flatten
from .rule import Rule

Tree = Any


def damp(model: Model, rule: Rule, rate: float) -> Rule:
    """The rule, moving each family only a part of the way, in its expected statistics; other leaves move all the way.

        θ_new = argmax of E ln f_θ(x) over x ~ (1 − rate) f_old + rate f_rule

    For sampled latents and minibatches: the stochastic approximation of EM (Delyon, Lavielle & Moulines 1999; Cappé &
    Moulines 2009) with a constant step, each component with the same one, however few data it has in the batch. The
    old parameters stand for the running average of the statistics, so that no other state is kept. Fixed points are
    those of the rule.

    Args:
      model: its encoder's exact E step, where it has one, is taken anew after the part of the step.
      rule: any rule; for instance `em_step(model, keep=True)`.
      rate: in (0, 1]; 1 is the rule itself.

    >>> import elbo, jax.numpy as jnp
    >>> from models.families import Bernoulli
    >>> from optim import em_step
    >>> log_joint = lambda theta, z, y: jnp.sum(z) + jnp.dot(jnp.ones(1), theta.log_prob(y))
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(1)))
    >>> coin = Bernoulli.create(jnp.array([[0.5]]))
    >>> rule, ys = damp(model, em_step(model), 0.1), jnp.array([[1.0], [1.0]])
    >>> rule.update(None, Params(coin, coin), (), ys)[0].theta.probabilities().tolist()
    [[0.55]]
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate: got {rate}, expected a number in (0, 1]; 1 takes the whole step")
    if rate == 1:
        return rule

    def between(old, new):
        if not is_family(old):
            return new
        if not hasattr(old, "statistics_of"):
            raise TypeError(
                f"theta: {type(old).__name__} has no statistics_of(reference), which a part of a step is made of; "
                "add that method, or use rate=1"
            )
        mixed = jax.tree.map(lambda a, b: (1 - rate) * a + rate * b, old.statistics_of(old), old.statistics_of(new))
        return old.maximize(mixed)

    def update(key, params, state, ys, *, weights=None):
        moved, state, info = rule.update(key, params, state, ys, weights=weights)
        pairs = zip(flatten(params.theta)[0], flatten(moved.theta)[0], strict=True)
        theta = flatten(params.theta)[1].unflatten([between(old, new) for old, new in pairs])
        theta, finite = keep_finite(theta, params.theta)
        step = getattr(model.encoder, "e_step", None)
        psi = moved.psi if step is None else step(theta, moved.psi)
        return Params(theta, psi), state, info._replace(finite=info.finite & finite)

    return Rule(rule.init, jax.jit(update))
