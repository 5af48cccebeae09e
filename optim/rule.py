"""What every update rule is, and what it tells a person."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from elbo import Params

Tree = Any


class Info(NamedTuple):
    """What one update reports, of the parameters that it was given; scalars.

    Attributes:
      elbo: L per datum in nats, the weighted mean over the data that are feasible; larger is better. After an exact E
        step it is ln P_Θ(y) per datum.
      objective: what the rule climbs: `elbo`, plus the log prior (where there is one) divided by the total weight.
      feasible: bool, whether every datum of non-zero weight has a finite L.
      dropped: int, how many have not; they move nothing.
      empty: int, components without data; they keep their parameters.
      finite: bool, whether the new parameters are finite. If not, the old ones and the old state were kept.
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
        self, key: jax.Array | None, params: Params, state: Tree, ys: Tree, *, weights: jax.Array | None = None
    ) -> tuple[Params, Tree, Info]:
        """Moves the parameters on a batch.

        Args:
          key: for rules that sample; others ignore it, and it may be None.
          params: `Params(theta, psi)`.
          state: what the previous step, or `init`, returned.
          ys: pytree of data with a leading axis N.
          weights: [N] >= 0, how often each datum counts; 1 by default. A datum of weight 0 (padding) is not looked at.

        Returns:
          New params, new state, and the `Info` of the params given.
        """
        ...


class Rule(NamedTuple):
    """An update rule: a pair of pure functions, `init(params) -> state` and `update` (see `Update`), jit-compiled."""

    init: Callable[[Params], Tree]
    update: Update
