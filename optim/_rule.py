"""What every update rule is, and what it tells a person."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import PartitionSpec

from elbo import Params
from elbo.extend import Compiled, Method, PyTree, described, explicit_mesh, placed_by_compiler, value


class Info(NamedTuple):
    """What one update reports, of the parameters that it was given; scalars.

    Attributes:
      elbo: L per datum in nats, the weighted mean over the data that are feasible; larger is better. After an exact E
        step it is ln P_Θ(y) per datum. −∞ where the q of a possible datum draws z that are impossible: by chance such a
        datum is feasible, and a mean over those that are would be no bound.
      objective: what the rule climbs: `elbo`, plus the log prior (where there is one) divided by the total weight.
      feasible: bool, whether every datum of non-zero weight has a finite L.
      dropped: int, how many have not; they move nothing.
      empty: int, components without data; they keep their parameters.
      finite: bool, whether the new parameters are finite. If not, the old ones were kept; and the old state, unless it
        was the optimiser's own step that was not finite: its state goes on.
      floored: int, scales that stand at their floor; a density may grow without bound there.
      weight: Σ w over the feasible data, what `elbo` and `objective` are means over.

    A rule of your own fills in what it knows; the defaults say that nothing went wrong.

    >>> Info(elbo=-1.5, objective=-1.5).dropped
    0
    """

    elbo: jax.Array | float
    objective: jax.Array | float
    feasible: jax.Array | bool = True
    dropped: jax.Array | int = 0
    empty: jax.Array | int = 0
    finite: jax.Array | bool = True
    floored: jax.Array | int = 0
    weight: jax.Array | float = 1.0


class Update(Protocol):
    """One step of a rule."""

    def __call__(
        self, key: jax.Array | None, params: Params, state: PyTree, ys: PyTree, *, weights: jax.Array | None = None
    ) -> tuple[Params, PyTree, Info]:
        """Moves the parameters on a batch.

        Args:
          key: for rules that sample; others ignore it, and it may be None.
          params: `Params(theta, psi)`.
          state: what the previous step, or `init`, returned.
          ys: pytree of data with a leading axis N. Floating-point arrays are converted to the dtype of the parameters
            (the common one where they differ; float32 at least where there are families), a chunk at a time, and
            integers narrower than 32 bits to int32; so do `elbo.elbo`, `evidence` and `decompose`. Sums over data are
            taken in float32 at least, and what moves keeps its own dtype.
          weights: [N] >= 0, how often each datum counts; 1 by default. A datum of weight 0 (padding) is ignored.
            Their sum says how much data the batch stands for: a prior is counted once beside it. In a loop of your own
            over batches of B out of N data pass `jnp.full(B, N / B)`, so that each batch stands for the whole, as
            `minibatches` does; with 1 for each datum the prior would be counted anew in every batch.

        Returns:
          New params, new state, and the `Info` of the params given.
        """
        ...


class Rebuild(Protocol):
    """The same rule with other options."""

    def __call__(self, *, where: tuple = (), rate: Any = None, total: jax.Array | None = None) -> "Rule | None":
        """What `restrict`, `damp` and `minibatches` ask of a rule; an option that is not given stays as it is.

        Args:
          where: moves only the leaves that each entry names (see `Where`), and those that it moved before.
          rate: takes closed-form M steps from running averages with this rate (see `damp`).
          total: Σ w of the whole that each batch stands for; a gradient step is that of the objective over `total`.

        Returns:
          The rule, with the same `init` state if only `total` was given; None if the option means nothing to it.
        """
        ...


class Rule(NamedTuple):
    """An update rule: a pair of pure functions, `init(params) -> state` and `update` (see `Update`), jit-compiled.

    A rule of your own is `Rule(init, update)`. One that can be made again with other options has a `rebuild` too; one
    that can take its data from a stream has `stream(key, params, state, source)`, which returns what `update` does.
    """

    init: Callable[[Params], PyTree]
    update: Update
    rebuild: Rebuild | None = None
    stream: Callable[..., tuple[Params, PyTree, Info]] | None = None

    def __repr__(self) -> str:
        if isinstance(self.init, Method):
            return described("Rule", self.init.owner)
        return described("Rule", self.init, self.update)


def rule_of(step: Any) -> Rule:
    """The rule made of the methods `init`, `update` and `rebuild` of a value; rules of equal values are equal."""
    init, update, rebuild = (Method(step, name) for name in ("init", "update", "rebuild"))
    stream = Method(step, "stream") if hasattr(step, "stream") else None
    return Rule(init, Compiled(_Placed(update)), rebuild, stream)


@value
class _Placed:
    """An update, also of data on a mesh with explicit axes; parameters and state stay where they are."""

    update: Method

    def __call__(self, key, params, state, ys, *, weights=None):
        mesh = explicit_mesh(params, state, ys, weights, key)
        if mesh is None:
            return self.update(key, params, state, ys, weights=weights)

        def run(key, params, state, ys, weights):
            return self.update(key, params, state, ys, weights=weights)

        kept = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, (params, state))
        return placed_by_compiler(run, mesh, (*kept, PartitionSpec()))(key, params, state, ys, weights)
