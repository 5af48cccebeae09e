"""One update from data that come in parts: what is measured of the parts adds up, then the rule moves once."""

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import jax

from elbo import Params
from elbo.extend import PyTree

if TYPE_CHECKING:
    from ._rule import Info
    from ._source import Source


class Pass(Protocol):
    """A value with the two halves of an update that looks at the data once: `update` is `advance` of `measure`."""

    def measure(
        self, key: jax.Array | None, params: Params, state: PyTree, ys: PyTree, weights: jax.Array | None
    ) -> PyTree:
        """What the update needs to know of data; that of parts adds up, see `add`."""

    def advance(self, params: Params, state: PyTree, measured: PyTree) -> tuple[Params, PyTree, "Info"]:
        """The update."""


def once(step: Pass, key: jax.Array | None, params: Params, state: PyTree, source: "Source") -> tuple:
    """One pass over a source; each part has its own key."""
    total = None
    for i, (ys, weights, _) in enumerate(source.parts()):
        own = None if key is None else jax.random.fold_in(key, i)
        total = _measure(step, own, params, state, ys, weights, total)
    return _advance(step, params, state, total)


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of what was measured of two parts; a flag is true where both are."""
    return jax.tree.map(lambda a, b: a & b if a.dtype == bool else a + b, a, b)


def no_trial(moving: PyTree) -> NoReturn:
    """For an optimiser that asks for the objective elsewhere, which would be one more pass over a stream."""
    raise ValueError(
        "optimizer: asks for the objective at other parameters (a line search), each time one more pass over the "
        "stream; use an optimiser without one, such as optax.adam, or data in memory"
    )


@partial(jax.jit, static_argnums=0, donate_argnums=6)
def _measure(step: Any, key, params, state, ys, weights, total):
    measured = step.measure(key, params, state, ys, weights)
    return measured if total is None else add(total, measured)


@partial(jax.jit, static_argnums=0)
def _advance(step: Any, params, state, measured) -> tuple:
    return step.advance(params, state, measured)
