"""How fast EM ends: its rate of convergence is the largest fraction of missing information."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo import Model, Params
from elbo.extend import ChunkSize, PyTree, anywhere, widened

from ._arguments import require_count, require_model, require_params
from ._coordinates import complete_information, coordinates, problem
from ._em import em_step
from ._summary import names


class Convergence(NamedTuple):
    """What `rate` returns, of EM near the parameters given; k = `count`.

    Attributes:
      values: the largest eigenvalues of EM's Jacobian below 1, the fractions of information missing along `directions`,
        in falling order, [k]. The first is r: an error shrinks by it in every step. 0 where there are fewer.
      directions: theta with a leading axis k and None in place of what is fixed: the directions, of one standard error
        each, did one see z (v · I_c v = 1).
      shares: the same tree: how much each number has in that v · I_c v; they add up to 1.
      residuals: bounds on the errors of `values`, [k], at a fixed point.
      unidentified: how many eigenvalues were found that are 1 as far as the dtype tells, an int: directions that the
        data say nothing of, such as the rotations of factor analysis. Of several equal ones, one is found.
      gain: how many nats of the objective EM would still gain from here, about. Where it is not small beside 1, the
        parameters are no fixed point, and the eigenvalues are those of a step on the way.
    """

    values: jax.Array
    directions: PyTree
    shares: PyTree
    residuals: jax.Array
    unidentified: jax.Array
    gain: jax.Array

    @property
    def steps_per_digit(self) -> jax.Array:
        """Steps after which the error is a tenth, ln 0.1 / ln r, a scalar."""
        return math.log(0.1) / jnp.log(self.values[0])

    def slowest(self, most: int = 3) -> list[tuple[str, float]]:
        """Which numbers have most of the slowest direction, and their shares."""
        shares = jax.tree.map(lambda a: a[0], self.shares)
        flat = np.concatenate([np.ravel(a) for a in jax.tree.leaves(shares)])
        order = np.argsort(-flat)[:most]
        called = names(shares)
        return [(called[i], float(flat[i])) for i in order]

    def __str__(self) -> str:
        if isinstance(self.values, jax.core.Tracer) or np.ndim(self.values) != 1:
            return repr(self)
        first = float(self.values[0])
        parts = [
            f"EM removes {1 - first:.3g} of the error a step (r = {first:.6g}): "
            f"{float(self.steps_per_digit):.3g} steps for a digit",
            "slowest direction: " + ", ".join(f"{name} {share:.0%}" for name, share in self.slowest()),
        ]
        if int(self.unidentified):
            parts.append("some directions change nothing that the data tell of (eigenvalue 1): left out")
        if float(self.gain) > 0.01:
            parts.append(f"not a fixed point: EM would still gain about {float(self.gain):.2g} nats")
        return "\n".join(parts)


@anywhere
def rate(
    model: Model,
    params: Params,
    ys: PyTree,
    *,
    count: int = 1,
    prior: PyTree = None,
    weights: jax.Array | None = None,
    chunk_size: ChunkSize = "auto",
    iterations: int = 32,
) -> Convergence:
    """The rate at which EM converges near params, and the direction that is slow.

        θ_{t+1} − θ* ≈ J (θ_t − θ*),     J = I − I_c⁻¹ I_o

    The eigenvalues of EM's Jacobian J are the fractions of information that are missing because z is hidden (Dempster,
    Laird & Rubin 1977): I_c is the information in (z, y), I_o that in y. They lie in [0, 1) at a maximum. They are
    found by Lanczos iteration, J being symmetric in the inner product of I_c; no matrix [P, P] is formed.

    Args:
      model: as of `em_step`: an exact encoder, and families with `rebase`.
      params: a fixed point of EM; see `Convergence.gain`.
      ys: pytree of data with a leading axis N.
      count: how many eigenvalues.
      prior, weights, chunk_size: those of `em_step`.
      iterations: at most how many, each the cost of about three E steps and the memory of [iterations, P].

    Returns:
      `Convergence`. Neither how theta is written nor the units of the data change the eigenvalues. The
      directions are in the families' coordinates.

    Raises:
      TypeError: the model has no exact E step, or a part of theta no closed-form M step.

    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.array([[0.0], [1.0], [2.0], [5.0], [6.0], [8.0]])
    >>> model, start = mixture.model(2), mixture.init(jax.random.key(0), ys, 2)
    >>> params = optim.run(optim.em_step(model), start, ys, steps=200, tolerance=0.0).params
    >>> found = optim.rate(model, params, ys)
    >>> bool(0 < found.values[0] < 0.5)
    True
    """
    require_model(model)
    require_params(params)
    params = widened(params)
    require_count("count", count)
    require_count("iterations", iterations)
    task = problem(model, params, ys, prior, weights, chunk_size)
    rule = em_step(model, prior=prior, chunk_size=chunk_size)
    at = coordinates(params)
    measured = task.statistics(params)
    metric = complete_information(at, task, measured.families, params.theta)

    def step(vector):
        new = rule.update(None, Params(at.theta(vector), params.psi), (), ys, weights=weights)[0]
        return coordinates(new).vector

    def jacobian(v):
        return jax.jvp(step, (at.vector,), (v,))

    size = at.vector.shape[0]
    wanted = min(max(iterations, count + 1), size)
    start = jnp.cos(1.0 + 2.4 * jnp.arange(size)).astype(at.vector.dtype)  # no symmetry of a model is its own
    new, start = jacobian(start)
    basis, images, projected, beyond = lanczos(lambda v: jacobian(v)[1], metric, start, wanted)
    eigenvalues, vectors = jnp.linalg.eigh(projected)
    same = jnp.finfo(at.vector.dtype).eps ** 0.6
    one = eigenvalues > 1 - same
    order = jnp.argsort(jnp.where(one, -jnp.inf, eigenvalues), descending=True)
    padding = max(count - wanted, 0)
    chosen = order[:count]

    def rows(a):
        return jnp.pad(a, ((0, padding), (0, 0)))

    values = jnp.pad(jnp.where(one[chosen], 0, eigenvalues[chosen]), (0, padding))
    directions, duals = rows(vectors[:, chosen].T @ basis), rows(vectors[:, chosen].T @ images)
    residuals = jnp.pad(jnp.abs(beyond * vectors[-1, chosen]), (0, padding))
    move = new - at.vector
    left = jnp.vdot(move, metric(move)) / (2 * (1 - jnp.minimum(values[0], 1 - same)))
    tree = jax.vmap(at.tree)
    return Convergence(
        values, tree(directions), tree(directions * duals), residuals, jnp.sum(one, dtype=jnp.int32), left
    )


def lanczos(operator: Any, metric: Any, start: jax.Array, size: int) -> tuple:
    """A basis of the Krylov space of an operator that is symmetric in the inner product ⟨a, b⟩ = a · metric(b).

    Args:
      operator: [P] -> [P].
      metric: [P] -> [P], positive semidefinite.
      start: [P].
      size: m, of the basis.

    Returns:
      The basis [m, P], its metric images [m, P], the operator in it [m, m], and the norm of what leaves the space.
      Where the space ends before m, what follows is 0.
    """

    def normalised(w, scale):
        image = metric(w)
        square = jnp.vdot(w, image)
        # what is left by rounding is no direction
        some = square > (scale * jnp.finfo(w.dtype).eps ** (2 / 3)) ** 2
        norm = jnp.sqrt(jnp.where(some, square, 1))
        return jnp.where(some, w / norm, 0), jnp.where(some, image / norm, 0), jnp.where(some, norm, 0)

    def step(i, carry):
        basis, images, projected, q, image, _ = carry
        basis, images = basis.at[i].set(q), images.at[i].set(image)
        w = operator(q)
        column = images @ w
        w = w - column @ basis
        again = images @ w  # twice is enough (Kahan, Parlett)
        w, column = w - again @ basis, column + again
        q, image, norm = normalised(w, 1)
        return basis, images, projected.at[:, i].set(column), q, image, norm

    zeros = jnp.zeros((size, *start.shape), start.dtype)
    first, image, _ = normalised(start, 0)
    carry = (zeros, zeros, jnp.zeros((size, size), start.dtype), first, image, jnp.zeros((), start.dtype))
    basis, images, projected, _, _, beyond = jax.lax.fori_loop(0, size, step, carry)
    upper = jnp.triu(projected)  # below it is only what a later step would have found
    return basis, images, upper + jnp.triu(upper, 1).T, beyond
