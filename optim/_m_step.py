"""The closed-form M step as a part of a rule: which families move, from which statistics, and what is reported."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from elbo import Params
from elbo.extend import PyTree, is_family, value, widened
from elbo.numerics import IMPOSSIBLE, all_finite

from ._averages import Rate, average, begin
from ._e_step import Statistics
from ._finite import select
from ._moving import moves, whole_families
from ._priors import add_prior, flatten, log_prior
from ._rule import Info


@value
class MStep:
    """Θ ← argmax, for the families of theta that move.

    Attributes:
      prior: theta with priors in place of families, or None.
      keep: whether a leaf without a closed form stays as it is; else it is refused.
      where: what moves, see `moving.moves`.
      rate: of the running averages of the statistics; None: the statistics of the batch are all that counts.
    """

    prior: PyTree
    keep: bool
    where: tuple = ()
    rate: Rate | None = None

    def init(self, params: Params) -> PyTree:
        """The state: the running averages, or ()."""
        moving = self.moving(params)
        return () if self.rate is None else begin(moving)

    @jax.named_scope("m_step")
    def update(self, params: Params, statistics: Statistics, state: PyTree) -> tuple[PyTree, PyTree, Info]:
        """The new theta and state, and the `Info` of the parameters that the statistics are of."""
        theta, seen, new_state = params.theta, statistics, state
        if self.rate is not None:
            seen, new_state = average(state, self.rate, self.moving(params), statistics)
        wide = _argmax(theta, seen, self.prior)
        new = _narrowed(wide, theta)
        if self.prior is not None:  # without data nothing moves, not even towards a prior
            new = jax.tree.map(lambda n, o: jnp.where(seen.weight > 0, n, o), new, theta)
        # an average that is not finite looks like no data to a family
        finite = all_finite((wide, new_state)) & _fits(new, wide)
        new, new_state = select(finite, (new, new_state), (theta, state))
        return new, new_state, info_of(theta, statistics, seen, self.prior, finite)

    def moving(self, params: Params) -> PyTree:
        """Theta with None in place of what stays; raises where a leaf would have to move but has no closed form."""
        leaves, treedef = flatten(params.theta)
        flags = whole_families(params.theta, moves(params, self.where).theta)
        if not self.keep:
            require_families(params.theta, flags)
        return treedef.unflatten([a if f and is_family(a) else None for a, f in zip(leaves, flags, strict=True)])

    def rebuild(self, where: tuple, rate: Rate | None) -> "MStep":
        """The same with other options."""
        if rate is not None and self.rate is not None:
            raise ValueError(f"rule: is damped already, with rate {self.rate}; damp it once")
        return replace(self, where=(*self.where, *where), rate=self.rate if rate is None else rate)


def maximize(theta: PyTree, statistics: Statistics, *, prior: PyTree = None) -> PyTree:
    """The closed-form M step: each family of theta replaced by its argmax; other leaves stay.

    Args:
      theta: the parameters that the statistics were measured with.
      statistics: from `expected_statistics`, or a sum of such.
      prior: theta with each family replaced by a prior (`statistics(family)`, `log_prob(family)`) or None; None for
        none.
    """
    return _narrowed(_argmax(theta, statistics, prior), theta)


def _argmax(theta: PyTree, statistics: Statistics, prior: PyTree) -> PyTree:
    leaves, treedef = flatten(widened(theta))
    families = treedef.flatten_up_to(add_prior(widened(theta), statistics.families, prior))
    return treedef.unflatten([a if s is None else a.maximize(s) for a, s in zip(leaves, families, strict=True)])


def _fits(narrow: PyTree, wide: PyTree) -> jax.Array:
    """Whether nothing overflowed in a smaller dtype, but what stands for ln 0: float16 holds −∞ in its place."""
    pairs = zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True)
    good = [jnp.all(jnp.isfinite(n) | (jnp.abs(w) >= -IMPOSSIBLE)) for n, w in pairs if n.dtype != w.dtype]
    return jnp.all(jnp.array(good)) if good else jnp.array(True)


def _narrowed(wide: PyTree, theta: PyTree) -> PyTree:
    return jax.tree.map(lambda a, old: a.astype(jnp.asarray(old).dtype), wide, theta)


def count_empty(theta: PyTree, families: PyTree) -> jax.Array:
    """How many components the statistics hold no data of, an int scalar."""
    leaves, treedef = flatten(theta)
    pairs = zip(leaves, treedef.flatten_up_to(families), strict=True)
    return sum(
        (jnp.sum(leaf.empty(s), dtype=jnp.int32) for leaf, s in pairs if s is not None), jnp.zeros((), jnp.int32)
    )


def count_floored(theta: PyTree) -> jax.Array:
    """How many scales of the families of theta stand at their floor, an int scalar."""
    floored = [leaf.floored() for leaf in flatten(theta)[0] if is_family(leaf) and hasattr(leaf, "floored")]
    return sum((jnp.sum(f, dtype=jnp.int32) for f in floored), jnp.zeros((), jnp.int32))


def info_of(theta: PyTree, statistics: Statistics, seen: Statistics, prior: PyTree, finite: jax.Array) -> Info:
    """What the statistics say of the parameters that they were measured with; `seen` are those that the M step read."""
    theta = widened(theta)
    total = jnp.where(statistics.weight > 0, statistics.weight, 1)
    bound = jnp.where(statistics.weight > 0, statistics.elbo / total, jnp.nan)
    return Info(
        elbo=bound,
        objective=bound + log_prior(theta, prior) / total,
        feasible=statistics.dropped == 0,
        dropped=statistics.dropped,
        empty=count_empty(theta, add_prior(theta, seen.families, prior)),
        finite=finite,
        floored=count_floored(theta),
        weight=statistics.weight,
    )


def require_families(theta: PyTree, flags: list[bool]) -> None:
    """Raises if a leaf of theta that is to move has no closed-form M step."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(theta, is_leaf=is_family)]
    names = [
        "theta" + jax.tree_util.keystr(path)
        for path, leaf, flag in zip(paths, flatten(theta)[0], flags, strict=True)
        if flag and not is_family(leaf)
    ]
    if names:
        raise TypeError(
            f"theta: {', '.join(names[:5])} {'has' if len(names) == 1 else 'have'} no closed-form M step (not a "
            "Family). Make it a family, move it with eg_step or vae_step, or pass keep=True to leave it as it is"
        )
