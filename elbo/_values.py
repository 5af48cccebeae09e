"""Values: objects that are equal where their parts are, so that equal ones share one compiled program."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


class _Same:
    """A part that cannot be hashed, such as an array: equal only to itself."""

    def __init__(self, of: Any):
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


def _comparable(part: Any) -> Any:
    if isinstance(part, float):
        return float, part, math.copysign(1, part)
    if isinstance(part, bool | int):  # 1 and True and 1.0 are equal, but not the programs that hold them
        return type(part), part
    if isinstance(part, tuple):
        return type(part), *map(_comparable, part)
    if isinstance(part, np.ndarray):
        return part.shape, part.dtype, part.tobytes()
    try:
        hash(part)
    except TypeError:
        leaves, treedef = jax.tree.flatten(part)
        if len(leaves) == 1 and leaves[0] is part:
            return _Same(part)
        return treedef, *map(_comparable, leaves)
    return part


@dataclass_transform(frozen_default=True, eq_default=False)
def value(cls: type[T]) -> type[T]:
    """Decorates a class: a frozen dataclass, equal and hashable by type and fields; JAX arrays in them by identity.

    JAX compiles a function anew when it meets another one, however alike. As a static argument of `jax.jit`, a value
    shares the programs of its equals.

    >>> @value
    ... class Power:
    ...     exponent: int
    ...
    ...     def __call__(self, x):
    ...         return x**self.exponent
    >>> Power(2) == Power(2), Power(2) == Power(3), hash(Power(2)) == hash(Power(2))
    (True, False, True)
    """
    cls.__post_init__ = _own_parts  # type: ignore[attr-defined]
    cls = dataclass(frozen=True, eq=False, repr=False)(cls)
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]

    def parts(self) -> tuple:
        return tuple(_comparable(getattr(self, name)) for name in names)

    def equal(self, other):
        return self is other or (type(self) is type(other) and parts(self) == parts(other))

    cls.__eq__ = equal  # type: ignore[method-assign]
    cls.__hash__ = lambda self: _once(self, "_hash", lambda: hash((type(self), parts(self))))  # type: ignore[method-assign]
    # what is known of a value, such as its hash, is not that of the process that reads it
    cls.__getstate__ = lambda self: {name: getattr(self, name) for name in names}  # type: ignore[method-assign]
    if cls.__repr__ is object.__repr__:
        cls.__repr__ = lambda self: described(type(self).__name__, *(getattr(self, n) for n in names))  # type: ignore[method-assign]
    return cls


def described(name: str, *parts: Any) -> str:
    """How a value is written: its parts in brackets, functions by their names.

    >>> described("f", len, None, 2)
    'f(builtins.len, None, 2)'
    """
    texts = [f"{p.__module__}.{p.__qualname__}" if hasattr(p, "__qualname__") else repr(p) for p in parts]
    return f"{name.lstrip('_')}({', '.join(texts)})"


def _once(value: Any, name: str, compute: Callable[[], T]) -> T:
    """What is computed of a value, which never changes, is kept in it: every call of a compiled function asks."""
    if name not in value.__dict__:
        object.__setattr__(value, name, compute())
    return value.__dict__[name]


def _own_parts(self) -> None:
    """Copies dicts, lists and NumPy arrays, which may be changed in place: a value is what it was when it was made."""
    for field in fields(self):
        part = getattr(self, field.name)
        own = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, part)
        object.__setattr__(self, field.name, own)


def _holds_tracers(part: Any) -> bool:
    if isinstance(part, jax.core.Tracer):
        return True
    if hasattr(part, "__dataclass_fields__") and not isinstance(part, type):
        return any(_holds_tracers(getattr(part, name)) for name in part.__dataclass_fields__)
    leaves = jax.tree.leaves(part)
    return any(_holds_tracers(leaf) for leaf in leaves if leaf is not part)


@value
class Method:
    """A method of a value, equal to that of an equal one, where Python's own compare their owners by identity."""

    owner: Any
    name: str

    def __call__(self, *args, **kwargs):
        """Calls it."""
        return getattr(self.owner, self.name)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(self.owner, self.name))


@value
class Compiled:
    """A function, jit-compiled; equal functions share their programs. It pickles if the function does.

    >>> @value
    ... class Scale:
    ...     by: float
    ...
    ...     def __call__(self, x):
    ...         return self.by * x
    >>> double = Compiled(Scale(2.0))
    >>> double == Compiled(Scale(2.0)), double(3.0).tolist()
    (True, 6.0)
    """

    function: Callable[..., Any]

    def __call__(self, *args, **kwargs):
        """Calls it; a function that holds tracers is a part of what is being traced, and is not kept."""
        if _once(self, "_traced", lambda: _holds_tracers(self.function)):
            return self.function(*args, **kwargs)
        return _call(self.function, *args, **kwargs)

    def lower(self, *args, **kwargs):
        """The program for these arguments, before it is compiled; as `jax.jit(function).lower` gives it."""
        return _call.lower(self.function, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)


@partial(jax.jit, static_argnums=0)
def _call(function, /, *args, **kwargs):
    return function(*args, **kwargs)
