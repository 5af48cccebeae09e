"""Marks in a traced log_joint: where the log_prob of a family begins, and where its value is tapped.

They are there only while `untapped` reads the trace. Nothing is ever computed with them.
"""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from ._types import PyTree

F = TypeVar("F")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probe:
    """A tap that leaves marks in the trace; what is taken out of it (for a family inside a family) does so too.

    Args:
      statistics: the tap itself.
      entered: whether the fields of the family that holds it have passed `enter`.
    """

    statistics: PyTree
    entered: bool = field(default=False, metadata={"static": True})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._part(getattr(self.statistics, name))

    def __getitem__(self, index: Any) -> Any:
        return self._part(self.statistics[index])

    def _part(self, part: Any) -> Any:
        arrays = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(part))
        return replace(self, statistics=part) if arrays else part


def enter(family: F) -> F:
    """The family, with a mark on each of its fields: what is computed from them now belongs to its log_prob."""
    leaves = jax.tree_util.tree_leaves_with_path(family)
    names = tuple(jax.tree_util.keystr(path[:1]).lstrip(".") for path, _ in leaves)
    marked = jax.tree.unflatten(jax.tree.structure(family), enter_p.bind(*(leaf for _, leaf in leaves), names=names))
    return replace(marked, tap=replace(marked.tap, entered=True))


def mark(value: jax.Array, tap: Probe) -> jax.Array:
    """The value of a log_prob, with a mark that names its tap."""
    return tapped_p.bind(value, *jax.tree.leaves(tap), entered=tap.entered)


enter_p = Primitive("enter")
enter_p.multiple_results = True
enter_p.def_abstract_eval(lambda *avals, names: list(avals))
batching.primitive_batchers[enter_p] = lambda args, axes, **params: (enter_p.bind(*args, **params), axes)
ad.primitive_jvps[enter_p] = lambda primals, tangents, **params: (enter_p.bind(*primals, **params), list(tangents))

tapped_p = Primitive("tapped")
tapped_p.def_abstract_eval(lambda value, *tap, entered: value)
batching.primitive_batchers[tapped_p] = lambda args, axes, **params: (tapped_p.bind(*args, **params), axes[0])
ad.primitive_jvps[tapped_p] = lambda primals, tangents, **params: (tapped_p.bind(*primals, **params), tangents[0])
