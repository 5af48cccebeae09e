"""Questions to a fitted model: `question(model, params, ys)`, of a batch, in every module."""

from collections.abc import Callable
from typing import Any

import jax

import elbo
from elbo.extend import PyTree, anywhere, batch_length


def each(question: Callable[[Any, PyTree], Any], params: Any, ys: PyTree) -> Any:
    """question(params, y) over the leading axis of ys; raises unless params are `elbo.Params` and ys is a batch."""
    if not isinstance(params, elbo.Params):
        raise TypeError(
            f"params: got {type(params).__name__}, expected elbo.Params(theta, psi), such as a fitted `result.params`; "
            "elbo.Params(theta) where the encoder is exact"
        )
    batch_length(ys)
    return anywhere(jax.vmap(question, (None, 0)), like_data=True)(params, ys)
