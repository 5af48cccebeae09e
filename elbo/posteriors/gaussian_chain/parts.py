"""What a function of a path is made of: what reads its frames one by one, and what reads neighbours.

A log joint is a sum over frames and over pairs of neighbours, and the curvature of the two may differ by many orders of
magnitude: 1/q² of a state that moves by q a step, 1/σ² of what is seen of it. In the Hessian they stand added, and the
smaller is rounded away. Here they are kept apart: the slices z[1:], z[:-1] and z[0] that a function takes of z are made
arguments of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxpr_as_fun

from ..._polynomial import BILINEAR, CALLS, power


class Path(NamedTuple):
    """z [T, D] by the ways in which a function reads it.

    Attributes:
      own: as it is, [T, D].
      first: z[:1], as z[0], [1, D].
      before, after: z[:-1] and z[1:], [T − 1, D].
    """

    own: jax.Array
    first: jax.Array
    before: jax.Array
    after: jax.Array

    @classmethod
    def of(cls, z: jax.Array) -> "Path":
        """Four times the same z."""
        return cls(z, z[:1], z[:-1], z[1:])


_KINDS = ("own", "first", "pair", "pair")


class Apart(NamedTuple):
    """A function of a path.

    Attributes:
      value: of a Path, a scalar.
      own, first, pairs: whether it reads these.
    """

    value: Callable[[Path], jax.Array]
    own: bool
    first: bool
    pairs: bool


def apart(f: Callable[[jax.Array], jax.Array], z: jax.Array) -> Apart | None:
    """g with g.value(Path.of(z)) = f(z) for a scalar f quadratic in z, and no product in g of z's read in two ways.

    None where f multiplies what it reads in two ways, such as a slice of z with z itself. Costs tracing time only.

    >>> g = apart(lambda z: -jnp.sum((z[1:] - 0.5 * z[:-1]) ** 2) + jnp.sum(z), jnp.zeros((3, 1)))
    >>> zero = Path.of(jnp.zeros((3, 1)))
    >>> g.value(zero._replace(after=zero.after + 1)).tolist(), g.value(zero._replace(own=zero.own + 1)).tolist()
    (-2.0, 3.0)
    """
    closed = jax.make_jaxpr(f)(z)

    def g(path: Path) -> jax.Array:
        return _evaluate(closed.jaxpr, closed.consts, [path])[0]

    split = jax.make_jaxpr(g)(Path.of(z))
    if _mixes(split.jaxpr, [frozenset({kind}) for kind in _KINDS])[1]:
        return None
    read = {v for eqn in split.jaxpr.eqns for v in eqn.invars if not hasattr(v, "val")}
    own, first, before, after = (v in read for v in split.jaxpr.invars)
    # compiled as one function, so that its derivatives are derived once
    run = jax.jit(jaxpr_as_fun(split))
    return Apart(lambda path: run(*path)[0], own, first, before or after)


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr some of whose arguments are a Path."""
    env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(v):
        return v.val if hasattr(v, "val") else env[v]

    for eqn in _needed(jaxpr):
        operands = [read(v) for v in eqn.invars]
        name, params = eqn.primitive.name, eqn.params
        out = None
        if any(isinstance(a, Path) for a in operands):
            if name == "slice":
                out = _piece(operands[0], params, _is_one_frame(jaxpr, eqn.outvars[0]))
            elif name in ("jit", "pjit", "closed_call"):
                inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
                out = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        if out is None:
            operands = [a.own if isinstance(a, Path) else a for a in operands]
            bound = eqn.primitive.get_bind_params(params)
            functions, bound = bound if isinstance(bound, tuple) else ((), bound)
            with eqn.ctx.manager:
                out = eqn.primitive.bind(*functions, *operands, **bound)
            out = out if eqn.primitive.multiple_results else [out]
        env.update(zip(eqn.outvars, out, strict=True))
    return [a.own if isinstance(a, Path) else a for a in map(read, jaxpr.outvars)]


def _needed(jaxpr: Jaxpr) -> list[Any]:
    """The equations that the outputs depend on."""
    wanted, found = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in wanted for v in eqn.outvars):
            found.append(eqn)
            wanted.update(map(id, eqn.invars))
    return found[::-1]


def _piece(path: Path, params: dict, one_frame: bool) -> list[jax.Array] | None:
    """The slice of a path, taken of the argument that stands for its frames; None if none does."""
    frames = path.own.shape[0]
    starts, limits = params["start_indices"], params["limit_indices"]
    if any(stride != 1 for stride in params["strides"] or ()):
        return None
    rows = starts[0], limits[0]
    if rows == (0, 1) and one_frame:
        piece = path.first
    elif rows == (1, frames):
        piece = path.after
    elif rows == (0, frames - 1):
        piece = path.before
    else:
        return None
    return [jax.lax.slice(piece, (0, *starts[1:]), (piece.shape[0], *limits[1:]))]


def _is_one_frame(jaxpr: Jaxpr, v: Any) -> bool:
    """Whether z[:1] is read as z[0]; of two frames, z[:-1] looks the same."""
    readers = [eqn for eqn in jaxpr.eqns if v in eqn.invars]
    return bool(readers) and all(e.primitive.name == "squeeze" and 0 in e.params["dimensions"] for e in readers)


def _mixes(jaxpr: Any, inputs: Sequence[frozenset]) -> tuple[list[frozenset], bool]:
    """Which arguments the outputs are linear in, given the same of the inputs; whether two different ones multiply.

    A product is quadratic already, and so multiplied by nothing more: it counts as a constant.
    """
    body: Jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    none: frozenset = frozenset()
    env = dict(zip(body.invars, inputs, strict=True))
    wrong = False
    for eqn in body.eqns:
        operands = [none if hasattr(v, "val") else env.get(v, none) for v in eqn.invars]
        together = none.union(*operands)
        name = eqn.primitive.name
        if not together:
            continue
        if name in CALLS:
            inner = eqn.params["call_jaxpr"] if "call_jaxpr" in eqn.params else eqn.params["jaxpr"]
            out, mixed = _mixes(inner, operands)
        else:
            product = power(eqn) == 2 or (name in BILINEAR and all(operands))
            opaque = name in ("scan", "while", "cond")
            mixed = (product or opaque) and len(together) > 1
            real = [jnp.issubdtype(getattr(v.aval, "dtype", bool), jnp.floating) for v in eqn.outvars]
            out = [together if is_real and not product else none for is_real in real]
        wrong |= mixed
        env.update(zip(eqn.outvars, out, strict=True))
    return [none if hasattr(v, "val") else env.get(v, none) for v in body.outvars], wrong
