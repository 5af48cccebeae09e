"""How parameters are written for people: what they mean, with a few digits; shapes while they are traced."""

import contextlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import numpy as np


def told(family: Any, **parts: Callable[[], Any]) -> str:
    """A dataclass of arrays as text: its name and these parts.

    While it is traced, and where it holds something else than arrays, its own fields are written.

    >>> from elbo.models.families import Categorical
    >>> Categorical.create(np.array([0.25, 0.75]))
    Categorical(probabilities=[0.25 0.75])
    """
    own = {field.name: getattr(family, field.name) for field in fields(family)}
    leaves = jax.tree.leaves(family)
    concrete = all(isinstance(a, np.ndarray | jax.Array) and not isinstance(a, jax.core.Tracer) for a in leaves)
    shown = own
    if concrete and leaves:
        with contextlib.suppress(Exception):  # a stack of families need not know its parts
            shown = {name: part() for name, part in parts.items()}
    text = ", ".join(f"{name}={brief(part)}" for name, part in shown.items() if part is not None)
    return f"{type(family).__name__}({text})"


def brief(part: Any) -> str:
    """An array with a few digits, or its dtype and shape where it is traced or large."""
    if isinstance(part, jax.core.Tracer) or not isinstance(part, np.ndarray | jax.Array):
        return str(jax.typeof(part)) if isinstance(part, jax.core.Tracer) else repr(part)
    if part.size > 200:
        return f"{part.dtype}{list(part.shape)}"
    text = np.array2string(np.asarray(part), precision=4, suppress_small=True, max_line_width=100)
    return text if "\n" not in text else "\n" + text + "\n"
