"""Emissions of hidden Markov models: mixtures, and where they start."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import elbo
from elbo.extend import PyTree

from ._chunks import sum_rows
from ._scales import scales
from .families import Categorical
from .families._data import data_log_prob
from .families._estimate import estimate_rows
from .kmeans import kmeans, memberships, nearness
from .mixture import Covariance, gaussian


class MixtureEmission(NamedTuple):
    """A mixture of C components in each of K states: ln p(y | k) = ln Σ_c w_kc p_kc(y), with closed-form M steps.

    Attributes:
      weights: `Categorical` over C with batch shape (K,).
      components: a family with batch shape (K, C).
    """

    weights: Categorical
    components: Any

    def log_prob(self, y: jax.Array) -> jax.Array:
        """[K], nats."""
        each = jnp.maximum(data_log_prob(self.components, y), elbo.LOG_ZERO)
        indicators = jnp.eye(self.weights.values, dtype=each.dtype)
        return jax.nn.logsumexp(each + jax.vmap(self.weights.log_prob, out_axes=1)(indicators), axis=-1)

    def sample(self, key: jax.Array) -> PyTree:
        """One draw per state, [K, ...]."""
        which, what = jax.random.split(key)
        chosen = self.weights.sample(which)
        pick = jax.vmap(lambda draws, component: draws[component])
        return jax.tree.map(lambda draws: pick(draws, chosen), self.components.sample(what))


def scattered(key: jax.Array, flat: jax.Array, share: jax.Array, family: Any) -> Any:
    """The frequencies of the values, multiplied in each state by random numbers from a gamma distribution.

    The arguments are those of `clustered`; flat: integers [N].
    """
    if isinstance(family, MixtureEmission):
        return MixtureEmission(_even(family), scattered(key, flat, share, family.components))
    counts = jnp.zeros(family.values, family.logits.dtype).at[jnp.where(share > 0, flat, 0)].add(share)
    noise = jnp.log(jax.random.gamma(key, 2.0, family.logits.shape, family.logits.dtype))
    return Categorical(jnp.log(counts + 1) + noise)


def clustered(
    key: jax.Array,
    flat: jax.Array,
    share: jax.Array,
    states: int,
    family: Any,
    inputs: tuple,
    covariance_type: Covariance,
) -> Any:
    """The emission of each state fitted to a cluster of the frames.

    Args:
      key: PRNG key.
      flat: frames, [N, D].
      share: how much each counts, [N]; 0 for frames that are missing.
      states: K.
      family: as in `hmm.init`, or None.
      inputs: none, or one pytree [N, ...].
      covariance_type: of the default family.
    """
    data = (flat, *inputs)
    units = scales(flat, share)
    share = jnp.where(units.within(flat), share, 0)
    if family is None:
        family = gaussian(flat, states, covariance_type, weights=share)
    stand_in = jax.tree.map(lambda a: a[jnp.argmax(share > 0)], data)

    def clean(share, data):  # what is missing need not be finite
        def fill(a, good):
            return jnp.nan_to_num(jnp.where((share > 0).reshape(-1, *(1,) * (a.ndim - 1)), a, good))

        return jax.tree.map(fill, data, stand_in)

    mine = kmeans(key, flat, states, weights=share).assignments
    if not isinstance(family, MixtureEmission):

        def members(share, mine, *data):
            near = share * nearness(data[0], units)
            return share[:, None] * memberships(mine, near, states), clean(share, data)

        return _estimated(family, members, share, mine, *data)
    parts = family.weights.values

    def divide(key, state):
        return kmeans(key, flat, parts, weights=jnp.where(mine == state, share, 0)).assignments

    part = jax.lax.map(
        lambda args: divide(*args), (jax.random.split(jax.random.fold_in(key, 1), states), jnp.arange(states))
    ).T

    def members_of_parts(share, mine, part, *data):
        near = share * nearness(data[0], units)
        state = memberships(mine, near, states)
        each = jax.vmap(lambda part: memberships(part, jnp.ones_like(near), parts), 1, 1)(part)
        return (share[:, None] * state)[..., None] * each, clean(share, data)

    rows = share, mine, part, *data
    size = sum_rows(lambda counted, *rows: jnp.einsum("nkc,n->kc", members_of_parts(*rows)[0], counted), *rows)
    weights = Categorical.create(jnp.where(jnp.sum(size, -1, keepdims=True) > 0, size, 1))
    return MixtureEmission(weights, _estimated(family.components, members_of_parts, *rows))


def _estimated(family, members, *rows):
    """The family of maximum likelihood for `members(*rows)`, started where all components are alike."""

    def together(*rows):
        member, data = members(*rows)
        axes = tuple(range(1, member.ndim))
        return jnp.broadcast_to(jnp.sum(member, axes, keepdims=True), member.shape), data

    return estimate_rows(estimate_rows(family, together, *rows), members, *rows)


def _even(emission):
    return Categorical(jnp.zeros_like(emission.weights.logits))
