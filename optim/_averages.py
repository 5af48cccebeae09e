"""Running averages of expected statistics, from which a closed-form M step is not biased by the noise of a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elbo.extend import PyTree

from ._e_step import Statistics
from ._moving import flatten_moving, require_methods

Rate = float | jax.Array | Callable[[jax.Array], jax.Array]
"""A number in (0, 1], also a traced one, or a function of the number of batches before (an optax schedule)."""


class Average(NamedTuple):
    """The state of a damped rule.

        S_t = Σ_{i <= t} γ_i Π_{i < j <= t} (1 − γ_j) s_i / known_t,     known_t = 1 − Π_{j <= t} (1 − γ_j)

    Attributes:
      families: S, of the families that move, in the coordinates of `measured`; None elsewhere.
      weight: the same average of Σ w.
      known: the share that data have in the average; the rest is what `start` expects.
      steps: batches seen; int.
      measured: the families that the next statistics' coordinates are changed from.
      start: the families before the first batch.
    """

    families: PyTree
    weight: jax.Array
    known: jax.Array
    steps: jax.Array
    measured: PyTree
    start: PyTree


def begin(moving: PyTree) -> Average:
    """The state before any data.

    Args:
      moving: theta with None in place of what does not move.
    """
    leaves, treedef = flatten_moving(moving)
    families = treedef.unflatten([None if family is None else _nothing(family) for family in leaves])
    floats = [a.dtype for a in jax.tree.leaves(families)]
    zero = jnp.zeros((), jnp.result_type(*floats) if floats else float)
    # copies, for the parameters may be donated
    measured, start = (jax.tree.map(jnp.copy, moving) for _ in range(2))
    return Average(families, zero, zero, jnp.zeros((), jnp.int32), measured, start)


def average(state: Average, rate: Rate, moving: PyTree, statistics: Statistics) -> tuple[Statistics, Average]:
    """The statistics that the M step should read, and the new state.

    Args:
      state: the averages before this batch.
      rate: γ, see `Rate`. One that is not in [0, 1] gives NaN, so that the update is rejected.
      moving: the families that move, by which the statistics were measured.
      statistics: of this batch.
    """
    gamma = jnp.asarray(rate(state.steps) if callable(rate) else rate, state.known.dtype)
    gamma = jnp.where((gamma >= 0) & (gamma <= 1), gamma, jnp.nan)
    known = state.known + gamma * (1 - state.known)
    share = jnp.where(known > 0, gamma / jnp.where(known > 0, known, 1), 0 * known)

    def mean(old, new):
        return jax.tree.map(lambda a, b: ((1 - share) * a + share * b).astype(a.dtype), old, new)

    leaves, treedef = flatten_moving(moving)
    trees = (state.families, state.measured, state.start, statistics.families)
    running: list = []
    seen: list = []
    for family, old, measured, start, new in zip(leaves, *map(treedef.flatten_up_to, trees), strict=True):
        if family is None:
            running.append(None)
            seen.append(new)
            continue
        s = mean(family.rebase(old, measured), new)
        # what the start would have seen in as many data: no component follows the first few data that it meets
        expected = family.rebase(start.expected(start.rebase(s, family)), start)
        running.append(s)
        seen.append(jax.tree.map(lambda a, b, c: (known * a + (1 - known) * b).astype(c.dtype), s, expected, new))
    weight = mean(state.weight, statistics.weight)
    state = Average(treedef.unflatten(running), weight, known, state.steps + 1, moving, state.start)
    return statistics._replace(families=treedef.unflatten(seen), weight=weight), state


def _nothing(family: Any) -> PyTree:
    """Statistics of no data, in no less than float32: small parts of a batch are added to them."""
    require_methods(family, ("rebase", "expected"), "running averages of its statistics")
    return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.float32)), family.zero_statistics())
