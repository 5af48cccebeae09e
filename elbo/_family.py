"""What a closed-form M step needs of a block of Θ, and the tap through which its statistics are read."""

import dataclasses
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from ._marks import Probe, enter, mark
from ._types import PyTree

Method = TypeVar("Method", bound=Callable[..., jax.Array])


@runtime_checkable
class Family(Protocol):
    """A block of Θ whose M step is closed form; a pytree (frozen dataclass) with a field `tap`, None unless tapped.

    Required are `tap`, the methods below, and a density for log_joint to call, by custom

        @elbo.extend.density
        def log_prob(self, x): ...  # nats, shaped like the batch of components

    which returns `tapped(contract, value, self.tap, *residuals)`: ln p(x) + ⟨tap, T(x)⟩ to first order. It may take
    more arguments. Statistics are additive pytrees. They are relative to the parameters of the family that measured
    them (whitened residuals, say), and `log_likelihood` and `maximize` of that same family read them.
    `elbo.check_model` tests all of this.

    Optional are these, and what needs one raises an error that says so where it is missing:

    - `sample(key, ...)`: one draw per component, with the arguments that `log_prob` has after x (`mixture.sample`,
      `hmm.sample`).
    - `free_parameters() -> int`: how many free numbers the batch of components has (`criteria.free_parameters`).
    - `statistics_of(reference)`: E T(x) of one datum x ~ reference, in this family's coordinates (`PseudoData`).
    - `scale_statistics_of(reference)`: the same of its spread alone (`PseudoScale`).
    - `rebase(statistics, old)`: what this family would have measured where `old` measured the statistics, and
      `expected(statistics)`: what as many data drawn from this family would give (`optim.damp`). `optim.rate` and
      `optim.information` need `rebase`, too.
    - `named() -> dict[str, Array]`: the parameters that people read, such as means and variances
      (`optim.information`).

    Where these are missing, nothing is done in their place:

    - `batch_shape`, a property: the shape of the batch of components, that `check_model` and others compare.
    - `supports(x)`: whether x can be a datum, a bool; mixtures and HMMs leave out data that cannot.
    - `project()`: where not all parameters are allowed, the nearest that are; gradient rules end with it, and
      differentiate through it.
    - `floored()`: bool of any shape, which scales stand at their floor; `info.floored` counts them.
    - `at_bound(statistics) -> dict[str, Array]`: by field, which numbers stand at the end of their range, bool;
      standard errors leave them out.
    - `fixed`, a class attribute: names of fields that no step may move (a floor, say). A log_joint may read them.
    """

    tap: Any

    def zero_statistics(self) -> PyTree:
        """Statistics of no data: a pytree of zeros, shaped like Σ T(x)."""
        ...

    def maximize(self, statistics: PyTree) -> "Family":
        """The argmax over the family of `log_likelihood(statistics)`; an empty component keeps its parameters."""
        ...

    def log_likelihood(self, statistics: PyTree) -> jax.Array:
        """Σ ln p(x) of the data behind the statistics, up to terms free of the parameters; linear in them; a scalar."""
        ...

    def empty(self, statistics: PyTree) -> jax.Array:
        """Which components the statistics hold no data of; bool, the family's batch shape."""
        ...


F = TypeVar("F")


def density(log_prob: Method) -> Method:
    """Decorates a family's `log_prob`, so that EM can tell what is done in it from what is done to the family before.

    Without it, EM cannot see that a log_joint calls `log_prob` on a family whose fields were changed, or on an x that
    depends on them, which makes the closed-form M step a wrong one. It adds nothing to what is computed.

    >>> @jax.tree_util.register_dataclass
    ... @dataclasses.dataclass(frozen=True)
    ... class Exponential:
    ...     log_rate: jax.Array
    ...     tap: Any = None
    ...
    ...     @density
    ...     def log_prob(self, x):
    ...         return tapped(jnp.multiply, self.log_rate - jnp.exp(self.log_rate) * x, self.tap, x)
    >>> Exponential(jnp.zeros(())).log_prob(2.0).tolist()
    -2.0
    """

    @wraps(log_prob)
    def marked(self, *args, **kwargs):
        return log_prob(enter(self) if isinstance(self.tap, Probe) else self, *args, **kwargs)

    return marked  # type: ignore[return-value]


def tapped(contract, value: jax.Array, tap: PyTree, *residuals: jax.Array) -> jax.Array:
    """`value`, with ⟨tap, T⟩ added to its derivative only: the forward pass computes nothing for the tap.

    Args:
      contract: `contract(tap, *residuals)` is ⟨tap, T⟩, linear in tap, shaped like value; a plain function, no closure.
      value: ln p(x), nats.
      tap: zeros shaped like the statistics, or None for no tap.
      residuals: the arrays that T is made of.
    """
    if isinstance(tap, Probe):
        return mark(value, tap)
    return value if tap is None else _tapped(contract, value, tap, residuals)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _tapped(contract, value, tap, residuals):
    del contract, tap, residuals
    return value


@_tapped.defjvp
def _tapped_jvp(contract, primals, tangents):
    value, _, residuals = primals
    dvalue, dtap, _ = tangents
    change = contract(dtap, *residuals)
    if jnp.shape(change) != jnp.shape(value):
        raise ValueError(
            f"tapped: contract returned shape {list(jnp.shape(change))} for a tap of shapes "
            f"{[list(a.shape) for a in jax.tree.leaves(dtap)]}, expected {list(jnp.shape(value))}, that of value. Look "
            "at zero_statistics, whose shapes the tap has, and at contract"
        )
    return value, dvalue + change


def with_tap(family: F, tap: PyTree) -> F:
    """The family with its tap set."""
    return dataclasses.replace(family, tap=tap)  # type: ignore[type-var]


def is_family(node: Any) -> bool:
    """Whether a node of Θ has a closed-form M step."""
    return not isinstance(node, type) and isinstance(node, Family)
