"""A posterior whose z has log potentials of its own shape, P(z) ∝ exp⟨potentials, z⟩: its methods, from ln Z alone."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from ..._types import PyTree
from ...numerics import IMPOSSIBLE, LOG_ZERO, within
from ..protocol import same_shapes
from .rules import inner


class StructuredPosterior(ABC):
    """What chains, alignments, trees and segmentations have in common. A subclass is a frozen dataclass of arrays.

    A structure gives its potentials (`_clean`), the two passes over them (`_log_partition` and `_smooth`, see `rules`),
    the best z and a draw as numbers, and the indicator of such numbers (`_indicate`).

    Attributes:
      smoothed: (ln Z, marginals, …) known beforehand, or None; see `prepared`.
    """

    smoothed: Any
    reparameterized: ClassVar[bool] = False
    _log_partition: ClassVar[Callable[..., jax.Array]]
    _smooth: ClassVar[Callable[..., tuple]]

    @abstractmethod
    def best(self) -> tuple[PyTree, jax.Array]:
        """The most probable z as integers, −1 in the padding, and its log potential, nats (Viterbi)."""

    @abstractmethod
    def sample(self, key: jax.Array) -> PyTree:
        """One z, exactly from P."""

    @abstractmethod
    def _clean(self) -> tuple[PyTree, PyTree]:
        """Potentials without −∞ and without what stands in the padding, and the sizes that count."""

    @abstractmethod
    def _indicate(self, found: PyTree) -> PyTree:
        """The indicator of what `best` finds; of −1, zeros."""

    def prepared(self) -> Self:
        """The same with ln Z and the marginals computed once, for `mean`, `entropy` and `log_partition`.

        The derivatives of the marginals, and of the entropy, are slower than that of `log_partition`.
        """
        return dataclasses.replace(self, smoothed=self._smoothed())  # type: ignore[type-var]

    def log_partition(self) -> jax.Array:
        """ln Z = ln Σ_z exp ⟨potentials, z⟩, a scalar; its gradient is `mean()`. A forward pass."""
        given = self._given()
        with jax.named_scope(f"{type(self).__name__}.log_partition"):
            return self._log_partition(*given) if self.smoothed is None else self.smoothed[0]

    def mean(self) -> PyTree:
        """E z, the marginals; zeros for an impossible datum, NaN where ln Z is. A pass forwards and one backwards."""
        log_z, marginals, *_ = self._smoothed()
        return self._to_z(jax.tree.map(lambda a: jnp.where(jnp.isnan(log_z), jnp.nan, a), marginals))

    def entropy(self) -> jax.Array:
        """−Σ P ln P = ln Z − ⟨potentials, mean⟩, nats; `LOG_ZERO` for an impossible datum."""
        potentials, _ = self._clean()
        log_z, marginals, *_ = self._smoothed()
        possible = jax.tree.map(lambda a: jnp.where(a <= IMPOSSIBLE, 0, a), potentials)
        return jnp.where(log_z <= IMPOSSIBLE, log_z, within(log_z - inner(possible, marginals), 0, jnp.inf))

    def log_prob(self, z: PyTree) -> jax.Array:
        """ln P(z), nats; affine in z, so that a mean may take its place. `LOG_ZERO` or less: impossible.

        That z is one that the structure knows is not checked.
        """
        potentials, _ = self._clean()
        same_shapes("z", z, jax.eval_shape(self._to_z, potentials))
        log_z = self.log_partition()
        return jnp.where(log_z <= IMPOSSIBLE, LOG_ZERO, inner(potentials, self._of_z(z)) - log_z)

    def mode(self) -> PyTree:
        """The most probable z (Viterbi)."""
        return self._indicator(*self.best())

    def _indicator(self, found: PyTree, score: jax.Array) -> PyTree:
        """The indicator of what was found: zeros if its score is that of an impossible z, NaN if it is no number."""
        found = jax.tree.map(lambda a: jnp.where(score <= IMPOSSIBLE, -1, a), found)
        return jax.tree.map(lambda a: jnp.where(jnp.isnan(score), jnp.nan, a), self._indicate(found))

    def _smoothed(self) -> tuple:
        given = self._given()
        with jax.named_scope(f"{type(self).__name__}.smooth"):
            return self._smooth(*given) if self.smoothed is None else self.smoothed

    def _given(self) -> tuple[PyTree, PyTree]:
        """What the passes are given."""
        return self._clean()

    def _to_z(self, marginals: PyTree) -> PyTree:
        """z from the form that potentials have."""
        return marginals

    def _of_z(self, z: PyTree) -> PyTree:
        """The form that potentials have, from z."""
        return z
