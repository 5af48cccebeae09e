"""Information criteria, to choose between models by likelihood and number of parameters."""

from typing import Any

from elbo.extend import aic, bic, free_parameters

__all__ = ["aic", "bic", "free_parameters"]


def one_of_each(**parts: tuple[Any, int]) -> None:
    """Raises unless families have so many batch axes: `one_of_each(weights=(family, 0))`."""
    for name, (part, axes) in parts.items():
        shape = getattr(part, "batch_shape", None)
        if shape is not None and len(shape) != axes:
            raise ValueError(
                f"theta.{name}: got batch shape {list(shape)}, expected {axes} axes: the parameters of one model. Of a "
                "stack of several take one, jax.tree.map(lambda a: a[0], theta)"
            )
