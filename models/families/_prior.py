"""Conjugate priors as imaginary data: what a family would have seen before the real data came."""

from dataclasses import dataclass
from typing import Any

import jax

from elbo.numerics import require_number

from ._data import require


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PseudoData:
    """The prior of `count` imaginary data x ~ `reference`: ln prior(f) = count · E_reference ln f(x) + const.

    This is the conjugate prior of an exponential family in the parametrisation of Diaconis & Ylvisaker (1979). For a
    categorical reference r it is a Dirichlet with concentration 1 + count r.

    Args:
      reference: a family like the one the prior is for.
      count: number of imaginary data per component, a scalar >= 0; 0 is no prior.

    >>> import jax.numpy as jnp
    >>> from elbo.models.families import Categorical
    >>> prior = PseudoData(Categorical.create(jnp.array([0.5, 0.5])), 2.0)
    >>> prior.statistics(prior.reference).tolist()
    [1.0, 1.0]
    """

    reference: Any
    count: jax.Array | float

    def statistics(self, family: Any) -> Any:
        """The imaginary data's statistics, in the family's coordinates."""
        require(family, "statistics_of", "prior: PseudoData", "statistics_of(reference), E T(x) of one x ~ reference")
        _require_count(self.count)
        return jax.tree.map(lambda t: self.count * t, family.statistics_of(self.reference))

    def log_prob(self, family: Any) -> jax.Array:
        """ln prior of the family up to a constant, a scalar in nats."""
        return family.log_likelihood(self.statistics(family))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PseudoScale:
    """The same for the spread alone: imaginary data around each component's own mean, which do not move the means.

    For a Gaussian this is an inverse-Wishart prior on the covariance: it keeps covariances away from zero. For families
    with a mean and a scale: Normal, MultivariateNormal, LinearGaussian.

    Args:
      reference: a family like the one the prior is for; only its scale is read.
      count: number of imaginary data per component, a scalar >= 0; 0 is no prior.

    >>> import jax.numpy as jnp
    >>> from elbo.models.families import MultivariateNormal
    >>> f = MultivariateNormal.create(jnp.zeros(2), jnp.eye(2))
    >>> PseudoScale(f, 3.0).statistics(f).count.tolist()
    0.0
    """

    reference: Any
    count: jax.Array | float

    def statistics(self, family: Any) -> Any:
        """The imaginary data's statistics, in the family's coordinates."""
        _require_count(self.count)
        if not hasattr(family, "scale_statistics_of"):
            raise TypeError(
                f"prior: PseudoScale needs a family with a scale, got {type(family).__name__}; use PseudoData"
            )
        return jax.tree.map(lambda t: self.count * t, family.scale_statistics_of(self.reference))

    def log_prob(self, family: Any) -> jax.Array:
        """ln prior of the family up to a constant, a scalar in nats."""
        return family.log_likelihood(self.statistics(family))


def _require_count(count: jax.Array | float) -> None:
    require_number("count", count, lambda c: c >= 0, "a number of imaginary data >= 0")
