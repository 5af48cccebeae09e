"""Which leaves of the parameters a rule may move, and the parameters taken apart into those and the others."""

import dataclasses
from typing import Any

import jax

from elbo import Params
from elbo.extend import PyTree, is_family

from ._priors import flatten

Where = str | PyTree
"""A dotted name of a subtree of `Params`, or a prefix of it with bools for leaves."""


def moves(params: Params, where: tuple[tuple[Where, ...], ...]) -> Params:
    """Params with a bool for each leaf: whether every entry of where names it, and no family calls it fixed.

    Raises where an entry names nothing.
    """
    leaves, treedef = jax.tree.flatten(params)
    chosen = [selected(params, names) for names in where]
    flags = [all(entry) for entry in zip(*chosen, strict=True)] if chosen else [True] * len(leaves)

    def without_fixed(node):
        names = getattr(node, "fixed", ()) if is_family(node) else ()
        stays = {name: jax.tree.map(lambda _: False, getattr(node, name)) for name in names}
        return dataclasses.replace(node, **stays) if stays else node

    return jax.tree.map(without_fixed, jax.tree.unflatten(treedef, flags), is_leaf=is_family)


def part(params: PyTree, chosen: PyTree) -> PyTree:
    """The leaves of params that are chosen; None in place of the others."""
    return jax.tree.map(lambda flag, leaf: leaf if flag else None, chosen, params)


def join(moved: PyTree, params: PyTree) -> PyTree:
    """Params with the leaves of a `part` of them put in."""
    return jax.tree.map(lambda new, old: old if new is None else new, moved, params, is_leaf=lambda a: a is None)


def whole_families(theta: PyTree, chosen: PyTree) -> list[bool]:
    """For each leaf of theta, where a family is one leaf, whether it moves; raises where half of a family does.

    Half of an argmax is not the argmax of that half. Fields that a family calls fixed count on neither side.
    """
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(theta, is_leaf=is_family)
    ]
    out = []
    for name, flags in zip(names, flatten(chosen)[0], strict=True):
        if is_family(flags):
            flags = dataclasses.replace(flags, **dict.fromkeys(getattr(flags, "fixed", ())))
        values = jax.tree.leaves(flags)
        if any(values) and not all(values):
            full = ".".join(("theta", name) if name else ("theta",))
            raise ValueError(
                f"where: names a part of the family {full}, which a closed-form M step moves as a whole; name all of "
                "it, or restrict a rule with a gradient M step (eg_step, vae_step)"
            )
        out.append(any(values))
    return out


def flatten_moving(moving: PyTree) -> tuple[list, Any]:
    """The leaves of theta where a family is one leaf, None for what does not move; and the tree they hang in."""
    return jax.tree.flatten(moving, is_leaf=lambda a: a is None or is_family(a))


def require_methods(family: Any, names: tuple[str, ...], reader: str) -> None:
    """Raises where a family lacks optional methods that `reader` (several of something) needs."""
    missing = [name for name in names if not hasattr(family, name)]
    if missing:
        raise TypeError(
            f"theta: {type(family).__name__} has no method {' and no method '.join(missing)}, which {reader} need; see "
            "elbo.Family. Add what is missing (see models/families), or leave this family out (restrict)"
        )


def selected(params: Params, where: tuple[Where, ...]) -> list[bool]:
    """Which leaves of params are named, by dotted names or by one prefix tree of bools; raises where none match."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    if all(isinstance(name, str) for name in where):
        for name in where:
            if not any(_within(path, name) for path in paths):
                raise ValueError(
                    f"where: no part of the parameters is named {name!r}; the leaves are: {', '.join(paths)}"
                )
        return [any(_within(path, name) for name in where) for path in paths]
    mask = where[0]
    try:
        full = jax.tree.map(lambda m, part: jax.tree.map(lambda _: m, part), mask, params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"where: the tree of bools {jax.tree.structure(mask)} is not a prefix of the parameters "
            f"{jax.tree.structure(params)}: {error}"
        ) from error
    flags = jax.tree.leaves(full)
    if len(where) > 1 or not all(isinstance(m, bool) for m in flags):
        raise TypeError(f"where: got {where!r}, expected dotted names, or one pytree of Python bools")
    return flags


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(name + ".")
