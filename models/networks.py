"""Networks as pure functions: flax.nnx modules made into `apply(params, x)`, in this one place."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from elbo.extend import PyTree


def functional(module: nnx.Module) -> tuple[Callable[..., Any], PyTree]:
    """A module as a pure function and its parameters.

    Args:
      module: any nnx module whose call changes no state of its own (no dropout, no batch statistics).

    Returns:
      `apply(params, *args)` and params, a plain nested dict of arrays.

    >>> apply, params = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> apply(params, jax.numpy.ones(3)).shape, sorted(params)
    ((2,), ['bias', 'kernel'])
    """
    graph, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]

    def apply(params: PyTree, *args: Any) -> Any:
        return nnx.merge(graph, params, rest)(*args)

    return apply, nnx.to_pure_dict(params)


class MLP(nnx.Module):
    """A multilayer perceptron; the last layer is linear.

    Args:
      sizes: widths from input to output.
      rngs: `nnx.Rngs(key)`.
      activation: between layers.

    >>> MLP((4, 8, 2), nnx.Rngs(0))(jax.numpy.ones(4)).shape
    (2,)
    """

    def __init__(self, sizes: Sequence[int], rngs: nnx.Rngs, activation: Callable[[jax.Array], jax.Array] = nnx.relu):
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes[:-1], sizes[1:], strict=True)])
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., sizes[0]] to [..., sizes[-1]]."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
