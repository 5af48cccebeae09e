"""Does q draw what is impossible? L is −∞ then, which the draws that happen to be possible do not tell."""

import jax
import jax.numpy as jnp

from ._encoder import ExactEncoder, terms
from ._estimators import Estimator
from ._model import Model, Params
from ._polynomial import meets
from ._types import PyTree
from .numerics import IMPOSSIBLE, widen

_LARGE = 1e18  # squares overflow not far from here
_DECIDES = {"select_n", "cond", "while", "log"}


def draws_the_impossible(
    model: Model, params: Params, y: PyTree, key: jax.Array, estimator: Estimator | None = None
) -> jax.Array:
    """Whether q(z|y) of a datum has mass on z with P(z, y) = 0, although the datum is possible; a bool scalar.

    Told by ln P(z, y) at the most probable z and at the draws that L was estimated with: some of them are impossible,
    and some are not. Where all are, it is the datum that is impossible (or nothing better is known), and where z is so
    large that ln P(z, y) overflows, it is q that is broken.

    Args:
      model, params, y: of one datum.
      key, estimator: that L was estimated with.

    >>> import elbo
    >>> log_joint = lambda theta, z, y: jnp.log(z @ theta * y)
    >>> model = Model(log_joint, lambda psi, y: elbo.CategoricalPosterior(psi))
    >>> def seen(theta, y):
    ...     params = Params(jnp.array(theta), jnp.zeros(2))
    ...     return bool(draws_the_impossible(model, params, y, jax.random.key(0), elbo.ScoreFunction(9)))
    >>> seen([0.5, 0.0], 1.0), seen([0.5, 0.5], 1.0), seen([0.5, 0.5], 0.0)
    (True, False, False)
    """
    y = widen(y)
    q = model.posterior(params, y)
    # one draw is that of the key itself, several are those of its parts
    keys = jnp.concatenate([key[None], jax.random.split(key, _samples(estimator))])
    zs = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), q.mode(), jax.vmap(q.sample)(keys))

    def score(z):
        moderate = [jnp.all(jnp.abs(leaf) < _LARGE) for leaf in jax.tree.leaves(z)]
        return jnp.where(jnp.all(jnp.stack(moderate)), sum(terms(model.log_joint, params.theta, z, y)), jnp.nan)

    values = jax.vmap(score)(zs)
    return jnp.any(values <= IMPOSSIBLE) & jnp.any(values > IMPOSSIBLE)


def may_draw_the_impossible(model: Model, params: Params, y: PyTree) -> bool:
    """Whether that can be, as far as the structure of one datum shows; costs tracing time only.

    Not where the encoder is exact. A z that has a density is impossible only where log_joint asks (a comparison decides
    between values, or between branches) or takes a logarithm.
    """
    if isinstance(model.encoder, ExactEncoder):
        return False
    seen: list[set[str]] = []

    def look(y):
        y = widen(y)
        q = model.posterior(params, y)
        continuous = getattr(getattr(q, "outer", q), "reparameterized", False)
        seen.append(meets(lambda z: terms(model.log_joint, params.theta, z, y), q.mode()) if continuous else _DECIDES)

    jax.eval_shape(look, y)
    return bool(seen[0] & _DECIDES)


def _samples(estimator: Estimator | None) -> int:
    inner = getattr(estimator, "otherwise", None) or estimator
    return getattr(inner, "samples", 1)
