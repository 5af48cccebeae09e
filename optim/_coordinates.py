"""The free coordinates of Θ: the numbers that a rule may move, as one vector; and what EM maximises in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree

from elbo import Model, Params
from elbo.extend import ChunkSize, PyTree, is_family

from ._e_step import exact_e_step, expected_statistics
from ._m_step import require_families
from ._moving import join, moves, part, require_methods
from ._priors import flatten, log_prior


class Coordinates(NamedTuple):
    """The floating-point numbers of theta that no family calls fixed, as one vector [P].

    These are what a gradient rule climbs: logits, means, logarithms of scales, roots of precisions. All values are
    valid. Some directions change nothing (a constant added to all logits).

    Attributes:
      vector: at the parameters given, [P].
      theta: vector [P] -> theta, with the fixed numbers in their places.
      tree: vector [P] -> theta with None in place of what is fixed.
    """

    vector: jax.Array
    theta: Callable[[jax.Array], PyTree]
    tree: Callable[[jax.Array], PyTree]


def coordinates(params: Params, where: tuple = ()) -> Coordinates:
    """Of the parts of theta that `where` names, see `moving.moves`."""
    vector, tree = ravel_pytree(part(params.theta, moves(params, where).theta))
    return Coordinates(vector, lambda v: join(tree(v), params.theta), tree)


class Problem(NamedTuple):
    """A model, its data and its prior, as EM sees them.

    Attributes:
      model, ys, prior, weights, chunk_size: those of `em_step`.
    """

    model: Model
    ys: PyTree
    prior: PyTree
    weights: jax.Array | None
    chunk_size: ChunkSize

    def statistics(self, params: Params) -> Any:
        """Expected statistics at params, each family's in its own coordinates."""
        tied = Params(params.theta, exact_e_step(self.model, params))
        return expected_statistics(self.model, tied, self.ys, weights=self.weights, chunk_size=self.chunk_size)

    def expected(self, theta: PyTree, statistics: PyTree, measured: PyTree) -> jax.Array:
        """Q(θ | θ') = E_{z ~ P_θ'(z|y)} ln P_θ(z, y) + ln prior(θ), nats, up to what is free of θ.

        Args:
          theta: θ.
          statistics: of the families, measured at θ'.
          measured: θ'.
        """
        leaves, treedef = flatten(theta)
        rows = zip(leaves, treedef.flatten_up_to(statistics), flatten(measured)[0], strict=True)
        total = sum(f.log_likelihood(f.rebase(s, old)) for f, s, old in rows if s is not None)
        return total + log_prior(theta, self.prior)


def problem(model: Model, params: Params, ys: PyTree, prior: PyTree, weights, chunk_size: ChunkSize) -> Problem:
    """The problem; raises where the model has no exact E step, or a part of theta no closed-form M step."""
    exact_e_step(model, params)
    leaves = flatten(params.theta)[0]
    moving = [
        bool(jax.tree.leaves(part(a, m))) for a, m in zip(leaves, flatten(moves(params, ()).theta)[0], strict=True)
    ]
    require_families(params.theta, moving)
    for leaf in leaves:
        if is_family(leaf):
            require_methods(leaf, ("rebase",), "rates and information")
    return Problem(model, ys, prior, weights, chunk_size)


def complete_information(at: Coordinates, task: Problem, statistics: PyTree, theta: PyTree) -> Callable:
    """v -> I_c v, the information that the data would hold if z were seen: −∂² Q(θ | θ') / ∂θ² in direction v.

    Args:
      at: where, θ.
      task: gives Q.
      statistics: of the families, measured at θ'.
      theta: θ'.
    """
    slope = jax.grad(lambda v: task.expected(at.theta(v), statistics, theta))
    return lambda v: -jax.jvp(slope, (at.vector,), (v,))[1]


def score(at: Coordinates, task: Problem, psi: PyTree) -> Callable:
    """v -> ∂ ln P_Θ(ys) prior / ∂Θ at v, [P]: Fisher's identity, ∂ Q(θ | θ') / ∂θ at θ = θ'."""

    def slope(v):
        theta = at.theta(v)
        statistics = task.statistics(Params(theta, psi)).families
        return jax.grad(lambda u: task.expected(at.theta(u), statistics, theta))(v)

    return slope
