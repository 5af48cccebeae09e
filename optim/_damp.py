"""Stochastic EM: closed-form M steps from running averages of expected statistics."""

from elbo import Model
from elbo.numerics import require_number

from ._arguments import require_model, require_rule
from ._averages import Rate
from ._compose import rebuilt
from ._rule import Rule


def damp(model: Model, rule: Rule, rate: Rate) -> Rule:
    """The rule, with its closed-form M steps taken from running averages of the expected statistics.

        S_t = (1 − γ_t) S_{t−1} + γ_t s_t,     θ_t = argmax of E ln f_θ at S_t (+ ln prior)

    For sampled latents, minibatches and streams: online EM (Cappé & Moulines 2009), the stochastic approximation of EM
    (Delyon, Lavielle & Moulines 1999). s_t are the expected statistics of batch t under θ_{t−1}; the M step, which is
    not linear, reads a mean over the last 1/γ batches and not the noise of one. A constant rate ends near a fixed point
    of the rule, at a distance that falls with the rate; rates with Σ γ_t = ∞ and Σ γ_t² < ∞ converge to it.

    S_0 is what the starting parameters expect of as many data as each component has been seen to have, so that a
    component moves by no more than the share 1 − Π (1 − γ_j) of the way to its data, however few they are. The averages
    are the state of the rule: `init` begins them anew.

    What has no closed-form M step, such as the gradient steps of a chain, stays as it is. To move only a part of the
    families so, damp a rule that is restricted to them.

    Args:
      model: of the rule.
      rule: made of `em_step` or `vem_step` by any of chain, repeat, restrict and minibatches.
      rate: γ in (0, 1], also traced; or an optax schedule, a function of the number of batches before, from 0. 1 is the
        rule itself. A traced rate outside of [0, 1] makes the update rejected (`info.finite`).

    >>> import elbo, jax.numpy as jnp
    >>> from elbo.models.families import Bernoulli
    >>> from elbo.optim import em_step
    >>> log_joint = lambda theta, z, y: jnp.sum(z) + jnp.dot(jnp.ones(1), theta.log_prob(y))
    >>> model = elbo.Model(log_joint, elbo.exact(log_joint, elbo.categorical(1)))
    >>> coin = Bernoulli.create(jnp.array([[0.5]]))
    >>> rule, params, ys = damp(model, em_step(model), 0.1), elbo.Params.tied(coin), jnp.array([[1.0], [1.0]])
    >>> rule.update(None, params, rule.init(params), ys)[0].theta.probabilities().tolist()
    [[0.55]]
    """
    require_model(model)
    require_rule("rule", rule)
    if not callable(rate):
        require_number("rate", rate, lambda r: 0 < r <= 1, "a number in (0, 1] (1 takes the whole step), or a schedule")
    new = rebuilt(rule, rate=rate)
    if new is None:
        raise TypeError(
            "rule: has no closed-form M step to be damped, expected one made of em_step or vem_step by chain, repeat, "
            "restrict or minibatches. A gradient step is made smaller by its optimiser"
        )
    return new
