"""Parameters in files: arrays by orbax, what they are the leaves of in JSON; nothing that is read is run."""

import importlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._model import Params
from ._types import PyTree

VERSION = 1
"""Of the format. A reader refuses what is newer."""


def save(folder: str | Path, params: Params) -> None:
    """Writes parameters into a folder, which is replaced when all is written; `load` reads them.

    Needs orbax (`pip install "jax-elbo[checkpoint]"`).

    >>> import tempfile
    >>> from elbo.models.families import Bernoulli
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save(place + "/coin", Params(Bernoulli.create(jnp.array([[0.25]]))))
    ...     load(place + "/coin").theta.probabilities().tolist()
    [[0.25]]
    """
    ocp = orbax()
    leaves = jax.tree.leaves(params)
    about = {"version": VERSION, "structure": _described(params, iter(range(len(leaves)))), "leaves": listed(params)}
    args = ocp.args.Composite(arrays=ocp.args.StandardSave(packed(params)), about=ocp.args.JsonSave(about))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(Path(folder).absolute(), args=args, force=True)


def load(folder: str | Path, like: Params | None = None) -> Params:
    """The parameters that `save` wrote, of the same types, shapes and dtypes.

    Args:
      folder: what was given to `save`.
      like: parameters of the same structure, whose values are ignored. Needed where classes from elsewhere than elbo
        are in it, such as a flax `nnx.State` or one of your own.

    Raises:
      ValueError: `like` differs from what is stored, which is named; or is missing where it is needed.
      FileNotFoundError: there is nothing of the kind.
    """
    ocp = orbax()
    path = Path(folder).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"folder: {path} is not there")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        about = reader.restore(path, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        check_version(about, path)
        arrays = reader.restore(path, args=ocp.args.Composite(arrays=ocp.args.StandardRestore())).arrays
    leaves = unpacked(arrays, about["leaves"])
    if like is None:
        return _built(about["structure"], leaves)
    check_leaves(about["leaves"], listed(like), path)
    return jax.tree.unflatten(jax.tree.structure(like), restored(leaves, like))


def orbax() -> Any:
    """The library, imported where it is used."""
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError('orbax is needed for files: pip install "jax-elbo[checkpoint]"') from error
    return ocp


def listed(tree: PyTree) -> list[list]:
    """The leaves of a tree as JSON knows them: path, shape, dtype."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(path), list(jnp.shape(leaf)), str(jnp.result_type(leaf))] for path, leaf in pairs]


def packed(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves by their number, without those of size 0, which orbax refuses."""
    leaves = {str(i): _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    return {name: leaf for name, leaf in leaves.items() if leaf.size} or {"none": np.zeros(1)}


def unpacked(arrays: dict, known: list[list]) -> list[np.ndarray]:
    """The leaves that `packed` took apart, of what `listed` says of them."""
    return [arrays[str(i)] if str(i) in arrays else np.zeros(shape, dtype) for i, (_, shape, dtype) in enumerate(known)]


def restored(leaves: list[np.ndarray], like: PyTree) -> list[jax.Array]:
    """The leaves as arrays on the device, and keys as keys, as in `like`."""

    def one(leaf, old):
        if jax.dtypes.issubdtype(jnp.result_type(old), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(old))
        return jnp.asarray(leaf)

    return [one(leaf, old) for leaf, old in zip(leaves, jax.tree.leaves(like), strict=True)]


def check_version(about: dict, path: Path) -> None:
    """Raises where what is stored is newer than this program."""
    if about["version"] > VERSION:
        raise ValueError(
            f"folder: {path} has format {about['version']}, expected at most {VERSION}; use a newer elbo to read it"
        )


def check_leaves(stored: list[list], expected: list[list], path: Path) -> None:
    """Raises where leaves differ, and says which."""
    there, here = ({name: (tuple(shape), dtype) for name, shape, dtype in leaves} for leaves in (stored, expected))
    told = [
        f"{name} is stored as {there[name]}, expected {here[name]}"
        for name in there
        if name in here and there[name] != here[name]
    ]
    told += [f"{name} is stored, and not expected" for name in there if name not in here]
    told += [f"{name} is expected, and not stored" for name in here if name not in there]
    if told:
        more = f", and {len(told) - 4} more" if len(told) > 4 else ""
        raise ValueError(f"folder: {path} holds other parameters: {'; '.join(told[:4])}{more}")


def _plain(leaf: Any) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _described(node: Any, numbers: Any) -> Any:
    """What a tree is made of, in JSON; leaves by their number, in the order of `jax.tree.leaves`."""
    if node is None or isinstance(node, bool | str):
        return {"value": node}
    if type(node) is dict and all(isinstance(key, str | int) for key in node):
        return {"dict": [[key, _described(node[key], numbers)] for key in sorted(node)]}
    named = isinstance(node, tuple) and hasattr(node, "_fields")
    if named or is_dataclass(node):
        names = node._fields if named else [field.name for field in fields(node)]
        parts = {name: _described(getattr(node, name), numbers) for name in names}
        return {"class": f"{type(node).__module__}:{type(node).__qualname__}", "fields": parts}
    if isinstance(node, list | tuple):
        return {type(node).__name__: [_described(part, numbers) for part in node]}
    leaves = jax.tree.leaves(node)
    if len(leaves) == 1 and leaves[0] is node:
        return {"leaf": next(numbers)}
    for _ in leaves:
        next(numbers)
    return {"foreign": f"{type(node).__module__}:{type(node).__qualname__}"}


def _built(about: dict, leaves: list[np.ndarray]) -> Any:
    (kind, what), *rest = about.items()
    if kind == "leaf":
        return jnp.asarray(leaves[what])
    if kind == "value":
        return what
    if kind == "dict":
        return {key: _built(part, leaves) for key, part in what}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_built(part, leaves) for part in what)
    module, _, name = what.partition(":")
    if kind == "foreign" or module.split(".")[0] != "elbo":
        raise ValueError(f"like: got None, expected parameters of the same structure, for {what} is no class of elbo")
    cls = getattr(importlib.import_module(module), name)
    return cls(**{key: _built(part, leaves) for key, part in rest[0][1].items()})
