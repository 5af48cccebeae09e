"""One ascent step on the objective by an optax optimiser, in any part of the parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from elbo import Estimator, Model, Params
from elbo.extend import ChunkSize, PyTree, axes_of, batch_length, bound, is_family, varying, widened
from elbo.numerics import IMPOSSIBLE, all_finite

from ._chunks import Sums, sum_over_chunks
from ._data import check_weights, split
from ._finite import finite_or, select
from ._impossible import is_hidden
from ._m_step import count_floored
from ._moving import join, part
from ._priors import log_prior
from ._rule import Info


class Ascent(NamedTuple):
    """What an ascent step needs besides parameters and data; closed over by the rules.

    Attributes:
      model: the pair (log_joint, encoder).
      optimizer: an optax optimiser; it is given the loss −objective, with `value`, `grad` and `value_fn` for line
        searches.
      prior: theta with priors in place of families, or None.
      estimator: how to take the expectation; None for `Automatic`.
      chunk_size: data in one chunk; None for all.
      total: Σ w of the whole that a batch stands for, which its objective is divided by; None for its own Σ w. A batch
        divided by its own sum would count heavy data for too little.
    """

    model: Model
    optimizer: optax.GradientTransformation
    prior: PyTree
    estimator: Estimator | None
    chunk_size: ChunkSize
    total: jax.Array | None = None

    def init(self, whole: PyTree, chosen: PyTree) -> PyTree:
        """The optimiser's state for the chosen leaves; where there are none, the optimiser is not asked."""
        moving = part(whole, chosen)
        return self.optimizer.init(_visible(moving)) if jax.tree.leaves(moving) else ()

    def with_total(self, total: jax.Array | None) -> "Ascent":
        """The same with another `total`, unless that is None."""
        return self if total is None else self._replace(total=total)


Problem = tuple["Ascent", Callable[[PyTree, PyTree], Params], PyTree, PyTree]
"""The first arguments of `ascend`, `measure` and `climb`."""


class Measured(NamedTuple):
    """The objective and its gradient on data; those of parts add up (see `passes.add`).

    Attributes:
      sums: Σ w of the gradient in what moves, of L and of the weight; how many data were dropped.
      possible: False where a sampled q draws what is impossible, so that the bound is −∞; a bool.
    """

    sums: Sums
    possible: jax.Array


def ascend(
    ascent: Ascent,
    assemble: Callable[[PyTree, PyTree], Params],
    whole: PyTree,
    chosen: PyTree,
    state: PyTree,
    ys: PyTree,
    weights: jax.Array | None,
    key: jax.Array | None,
) -> tuple[PyTree, PyTree, Info]:
    """Moves the chosen leaves of `whole`, a part of the parameters, one optimiser step up the objective per datum.

    The optimiser sees nothing but the chosen leaves, with None in place of the others. Numbers that stand for ln 0
    (`LOG_ZERO`, and log odds as large) are constants: they have no gradient, and the optimiser, which would take them
    for numbers of size 1e30, sees 0. On the devices of a `jax.shard_map` each climbs on its own data; to climb on all
    of them, let the optimiser take the mean of the gradients (`jax.lax.pmean`).

    Args:
      ascent: see `Ascent`.
      assemble: `assemble(whole, at)`, the `Params`; what they have of an exact E step is taken at `at`, and held in the
        gradient.
      whole: theta, psi, or both.
      chosen: a bool for each leaf of whole, see `moving.moves`.
      state: the optimiser's state.
      ys, weights, key: as in `Update`.

    Returns:
      The new whole and state, and the `Info` of the parameters given. If the gradient or the optimiser's step is not
      finite nothing moves; `_witnesses` says what of the step is checked.
    """
    weights = check_weights(weights, batch_length(ys), assemble(whole, whole))
    keys, axes = split(key, weights.shape[0]), axes_of(assemble(whole, whole), state, ys, weights, key)
    measured = _measure(ascent, assemble, whole, chosen, ys, weights, key)
    params_of = _assembled(assemble, whole, axes)

    def values(moving, ys, keys):
        # the posterior is held here, too: its share of the slope is 0, and dear
        return _bounds(ascent, params_of(moving, jax.lax.stop_gradient(moving)), ys, keys), lambda weights: ()

    def trial(moving):
        return sum_over_chunks(ascent.model, values, params_of(moving), moving, ys, weights, keys, ascent.chunk_size)

    return climb(ascent, assemble, whole, chosen, state, measured, trial)


def measure(
    ascent: Ascent,
    assemble: Callable[[PyTree, PyTree], Params],
    whole: PyTree,
    chosen: PyTree,
    ys: PyTree,
    weights: jax.Array | None,
    key: jax.Array | None,
) -> Measured:
    """The objective on a part of the data and its gradient in the chosen leaves of `whole`, so that parts add up.

    The arguments are those of `ascend`. The sums of a part without feasible data are 0.
    """
    sums, possible = _measure(ascent, assemble, whole, chosen, ys, weights, key)
    some = sums.weight > 0
    values = jax.tree.map(lambda a: jnp.where(some, a, 0), sums.values)
    return Measured(sums._replace(values=values, finite=sums.finite | ~some), possible)


@jax.named_scope("gradient")
def _measure(ascent, assemble, whole, chosen, ys, weights, key) -> Measured:
    here = assemble(whole, whole)
    weights = check_weights(weights, batch_length(ys), here)
    keys, axes = split(key, weights.shape[0]), axes_of(here, ys, weights, key)
    whole = varying(whole, axes)
    here, moving, params_of = assemble(whole, whole), part(whole, chosen), _assembled(assemble, whole, axes)

    def slopes(at, ys, keys):
        out, pull = jax.vjp(lambda moving: _bounds(ascent, params_of(moving, at), ys, keys), at)
        return out, lambda weights: pull(weights.astype(out.dtype))[0]

    sums = sum_over_chunks(ascent.model, slopes, params_of(moving), moving, ys, weights, keys, ascent.chunk_size)
    data = ys, weights, keys
    return Measured(sums, ~is_hidden(ascent.model, ascent.estimator, here, *data, sums.dropped, ascent.chunk_size))


@jax.named_scope("climb")
def climb(
    ascent: Ascent,
    assemble: Callable[[PyTree, PyTree], Params],
    whole: PyTree,
    chosen: PyTree,
    state: PyTree,
    measured: Measured,
    trial: Callable[[PyTree], Sums],
) -> tuple[PyTree, PyTree, Info]:
    """The step that the measured gradient allows; see `ascend`.

    Args:
      ascent, assemble, whole, chosen, state: those of `ascend`.
      measured: on all data.
      trial: the sums at other values of what moves, for line searches.
    """
    sums = measured.sums
    axes = axes_of(assemble(whole, whole), state, measured)
    whole, state = varying((whole, state), axes)
    here, moving, params_of = assemble(whole, whole), part(whole, chosen), _assembled(assemble, whole, axes)

    def size(sums):
        return jnp.where(sums.weight > 0, sums.weight, 1) if ascent.total is None else ascent.total

    def penalty(moving):
        return log_prior(params_of(moving).theta, ascent.prior)

    gradient = sums.values
    value, extra, finite = sums.bound, 0.0, sums.finite
    if ascent.prior is not None:
        extra, slope_of_prior = jax.value_and_grad(penalty)(moving)
        value, gradient = value + extra, jax.tree.map(jnp.add, gradient, slope_of_prior)
        finite &= all_finite(slope_of_prior)
    scale = -1 / size(sums)
    optimizer = optax.with_extra_args_support(ascent.optimizer)

    def step(moving, state, gradient):
        downhill = jax.tree.map(lambda g, p: (g * scale).astype(p.dtype), gradient, moving)
        downhill, inside = _inward(downhill, whole, chosen)

        def end(seen):
            return inside(_restored(seen, moving))

        def loss(seen):
            there = end(seen)
            tried = trial(there)
            # a mean over fewer data is none to compare with
            return jnp.where(tried.weight < sums.weight, jnp.inf, -(tried.bound + penalty(there)) / size(tried))

        seen, value_now = _visible(moving), value * scale
        updates, state = optimizer.update(downhill, state, seen, value=value_now, grad=downhill, value_fn=loss)
        finite = all_finite(_witnesses(updates))
        moved = finite_or(end(optax.apply_updates(seen, updates)), moving)
        return varying((select(finite, moved, moving), state, finite), axes)

    def stay(moving, state, gradient):
        return varying((moving, state, finite), axes)

    # without data nothing moves, neither towards a prior nor by a momentum
    go = finite if ascent.total is not None else finite & (sums.weight > 0)
    if jax.tree.leaves(moving):
        # a branch, not a selection: that would hold old and new parameters and state at once
        moved, state, finite = jax.lax.cond(go, step, stay, moving, state, gradient)
    else:
        moved, finite = moving, jnp.array(True)
    per_datum = jnp.where(sums.weight > 0, sums.bound / jnp.where(sums.weight > 0, sums.weight, 1), jnp.nan)
    per_datum = jnp.where(measured.possible, per_datum, -jnp.inf)
    info = Info(
        elbo=per_datum,
        objective=per_datum + extra / size(sums),
        feasible=sums.dropped == 0,
        dropped=sums.dropped,
        empty=jnp.zeros((), jnp.int32),
        finite=finite,
        floored=count_floored(here.theta),
        weight=sums.weight,
    )
    return join(moved, whole), state, info


def _assembled(assemble: Callable[[PyTree, PyTree], Params], whole: PyTree, axes: frozenset) -> Callable[..., Params]:
    """`params_of(moving, at)`: the parameters, their exact E step taken at `at` (by default where they are)."""

    def params_of(moving, at=None):
        end = join(moving, whole)
        return varying(widened(assemble(end, end if at is None else join(at, whole))), axes)

    return params_of


def _bounds(ascent: Ascent, params: Params, ys: PyTree, keys: jax.Array | None) -> jax.Array:
    """L of each datum, [N]."""
    return jax.vmap(lambda y, k: bound(ascent.model, params, y, k, ascent.estimator))(ys, keys)


def _visible(moving: PyTree) -> PyTree:
    """The parameters as an optimiser sees them: 0 for the numbers that stand for ln 0 or ln ∞."""
    return jax.tree.map(lambda a: jnp.where(_is_limit(a), 0, a), moving)


def _restored(seen: PyTree, moving: PyTree) -> PyTree:
    """What an optimiser made of the visible parameters, with the numbers that it did not see as they were."""
    return jax.tree.map(lambda new, old: jnp.where(_is_limit(old), old, new), seen, moving)


def _is_limit(a: jax.Array) -> jax.Array:
    return jnp.abs(a) >= -IMPOSSIBLE


def _inward(gradient: PyTree, whole: PyTree, chosen: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """The gradient without what would lead out of the families' bounds (their floors), and how moves end inside.

    At a bound, what leads out is no way downhill, and a line search must not look for any there: directions are taken
    through the derivative of the projection, from a point a little downhill.
    """

    def ahead(x, g):
        largest = jnp.max(jnp.abs(g), initial=0)
        return x - 1e-5 * jnp.max(jnp.abs(x), initial=0) * g / jnp.where(largest > 0, largest, 1)

    def bounded(node):
        return is_family(node) and hasattr(node, "project")

    def slope(node, g):
        if not bounded(node):
            return g
        return jax.vjp(lambda f: f.project(), jax.tree.map(ahead, node, g))[1](g)[0]

    def move(node, g, new):
        if not bounded(node):
            return new
        direction = jax.tree.map(jnp.subtract, new, node)
        _, inside = jax.jvp(lambda f: f.project(), (jax.tree.map(ahead, node, g),), (direction,))
        return jax.tree.map(jnp.add, node, inside).project()

    if not any(bounded(node) for node in jax.tree.leaves(whole, is_leaf=is_family)):
        return gradient, lambda new: new
    # a projection needs all of a family, also what does not move
    full = join(gradient, jax.tree.map(jnp.zeros_like, whole))

    def end(new):
        return part(jax.tree.map(move, whole, full, join(new, whole), is_leaf=is_family), chosen)

    return part(jax.tree.map(slope, whole, full, is_leaf=is_family), chosen), end


def _witnesses(updates: PyTree) -> list[jax.Array]:
    """What is checked to tell whether an optimiser gave finite numbers: its small arrays, or a row of each large one.

    A learning rate that is not finite shows everywhere. To read all updates of a network once more would cost a VAE's
    step 13 % of its time on a CPU.
    """
    leaves = jax.tree.leaves(updates)
    return [u for u in leaves if u.size <= 4096] or [u[(0,) * (u.ndim - 1)] for u in leaves]
