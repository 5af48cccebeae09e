"""What a log_joint reads of the families of Θ other than through the tapped value of their log_prob, by its jaxpr.

Whatever else a family's parameters move is in no statistic: the M step would climb another function than ln P(y).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._encoder import terms
from ._family import is_family, with_tap
from ._marks import Probe
from ._polynomial import scan_operands
from ._types import PyTree
from .posteriors import StructureError

CURES = (
    "An exposure or a scale mixture is log_prob(x, offset=...) or log_prob(x, weight=...). Else make the parameter a "
    "plain array of theta (moved by eg_step, left alone by keep=True), or write a family whose own log_prob does this; "
    "eg_step and vae_step take the model as it is"
)

# How a value depends on tapped values. What is affine or convex and increasing in them lies above its tangent, and so
# climbs with the M step; the log of a sum of exponentials is of this kind. Signs of numbers that are not literals (z,
# masks, mixing weights) are not known while tracing, and taken to be what they should be.
_FREE, _LINEAR, _PEAK, _POWER, _CONVEX, _DEFICIT, _CONCAVE, _OTHER = (
    "free",
    "linear",
    "peak",  # a maximum, which logsumexp takes out as a constant and puts back
    "power",  # a sum of exponentials
    "convex",
    "deficit",  # a constant less a sum of exponentials
    "concave",
    "other",
)
_UP, _DOWN = {_LINEAR, _PEAK, _POWER, _CONVEX}, {_LINEAR, _DEFICIT, _CONCAVE}
_MINUS = {_PEAK: _CONCAVE, _CONVEX: _CONCAVE, _CONCAVE: _CONVEX, _POWER: _DEFICIT, _DEFICIT: _CONVEX}
_FUNCTIONS = {
    "exp": dict.fromkeys(_UP, _POWER),
    "exp2": dict.fromkeys(_UP, _POWER),
    "log": {_POWER: _CONVEX, _DEFICIT: _CONCAVE},
    "log1p": {_POWER: _CONVEX, _DEFICIT: _CONCAVE},
    "abs": {_POWER: _POWER},
    "cumlogsumexp": dict.fromkeys(_UP, _CONVEX),
    "reduce_max": dict.fromkeys(_UP, _PEAK),
    "cummax": dict.fromkeys(_UP, _PEAK),
    "pmax": dict.fromkeys(_UP, _PEAK),
    "stop_gradient": {_PEAK: _FREE},
    "sign": {_POWER: _FREE},
}
_CONVEX_FUNCTIONS = {"logaddexp", "softplus", "log_partition"}  # with derivative rules of their own

# These move the entries of an array about and leave them what they are.
_SAME = {"convert_element_type", "copy", "optimization_barrier", "pvary", "reshard", "sharding_constraint"}
_MOVES = {
    "broadcast_in_dim",
    "concatenate",
    "dynamic_slice",
    "expand_dims",
    "gather",
    "reshape",
    "rev",
    "select_n",
    "slice",
    "split",
    "squeeze",
    "stack",
    "transpose",
    "unstack",
}
_SUMS = {
    "add",
    "add_any",
    "all_gather",
    "cumsum",
    "dynamic_update_slice",
    "name",
    "pad",
    "psum",
    "psum_invariant",
    "reduce_sum",
    "scatter",
    "scatter-add",
}
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}
_CALLS = {"jit", "pjit", "closed_call", "checkpoint", "remat", "remat2"}
_NONE: frozenset[Any] = frozenset()


class _Image(NamedTuple):
    """A field or a tap as it is, but for how its entries were moved."""

    families: frozenset[int]
    moves: tuple


class _Value(NamedTuple):
    """How a value depends on the families of Θ.

    Attributes:
      reads: families whose fields it depends on outside of a log_prob.
      inside: families in whose log_prob it is computed.
      changed: pairs (family, field) that came into a log_prob as something else.
      through: families whose tapped values it depends on.
      curve: how it depends on those.
      blame: the operation that spoiled the curve.
      image: what field or tap it is.
    """

    reads: frozenset[int] = _NONE
    inside: frozenset[int] = _NONE
    changed: frozenset[tuple[frozenset[int], str]] = _NONE
    through: frozenset[int] = _NONE
    curve: str = _FREE
    blame: str = ""
    image: _Image | None = None


_CONSTANT = _Value()


def require_taps(
    log_joint: Callable[..., Any], theta: PyTree, z: PyTree, y: PyTree, tapped: tuple[bool, ...] | None = None
) -> bool:
    """Raises unless what log_joint takes from the families of theta is their log_prob, and lets EM climb.

    A field of a family may reach the value of log_joint only through the tapped value of that family's log_prob. To
    branch on it, to compare it and to pass it through `stop_gradient` is to read it; `fixed` fields and other leaves of
    theta are free. A family may be indexed, stacked or broadcast as a whole (`jax.tree.map`, `vmap`), its fields not
    changed. Tapped values may be added, multiplied by what depends on no family, bounded, and taken the maximum or the
    logsumexp of: functions that lie above their tangent. Signs are read off literals only. Costs tracing time once for
    each shape, and nothing at run time.

    Args:
      log_joint: of a model.
      theta, z, y: where to trace it; only shapes and dtypes are read.
      tapped: which leaves of theta, a family being one, are families that the M step moves; all families by default.
        The others are constants to it, and may be read in any way.

    Returns:
      Whether log_joint is affine in the tapped values.

    >>> from elbo.models.families import Poisson
    >>> theta = Poisson.create(jnp.array([2.0]))
    >>> require_taps(lambda theta, z, y: theta.log_prob(y), theta, None, jnp.ones(1))
    True
    >>> require_taps(lambda theta, z, y: theta.log_prob(y) - theta.rate()[0], theta, None, jnp.ones(1))
    Traceback (most recent call last):
    elbo.posteriors.derive.StructureError: log_joint: reads theta outside of its log_prob, ...
    """
    if any(map(is_family, jax.tree.leaves(theta, is_leaf=is_family))):
        leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda: (theta, z, y)))
        return _require_taps(log_joint, treedef, tuple(leaves), tapped)
    return True


def _require_taps(log_joint: Callable[..., Any], treedef: Any, leaves: tuple, tapped: tuple[bool, ...] | None) -> bool:
    theta, z, y = treedef.unflatten(leaves)
    paths = jax.tree_util.tree_leaves_with_path(theta, is_leaf=is_family)
    tree = jax.tree.structure(theta, is_leaf=is_family)
    nodes = [with_tap(leaf, None) if is_family(leaf) else leaf for _, leaf in paths]
    moves = tapped or tuple(map(is_family, nodes))
    taps = [jax.eval_shape(leaf.zero_statistics) if m else None for leaf, m in zip(nodes, moves, strict=True)]

    def tapped_terms(nodes, taps, z, y):
        probed = [n if t is None else with_tap(n, Probe(t)) for n, t in zip(nodes, taps, strict=True)]
        return terms(log_joint, jax.tree.unflatten(tree, probed), z, y)

    jaxpr = jax.make_jaxpr(tapped_terms)(nodes, taps, z, y).jaxpr
    inputs = [value for i, node in enumerate(nodes) for value in _fields(i, node, moves[i])]
    inputs += [_Value(inside=i, image=_Image(i, ())) for i in _indices(taps)]
    inputs += [_CONSTANT] * (len(jaxpr.invars) - len(inputs))
    names = ["theta" + jax.tree_util.keystr(path) for path, _ in paths]
    values = _walk(jaxpr, inputs)
    for value in values:
        if complaint := _complaint(value, names):
            raise StructureError(f"log_joint: {complaint}. {CURES}")
    return all(value.curve in (_FREE, _LINEAR) for value in values)


def _indices(taps: list) -> list[frozenset[int]]:
    return [frozenset([i]) for i, tap in enumerate(taps) for _ in jax.tree.leaves(tap)]


def _fields(i: int, node: Any, moves: bool) -> list[_Value]:
    """The leaves of a node of theta, of which those of a family that moves must not be read, unless they are fixed."""
    if not moves:
        return [_CONSTANT] * len(jax.tree.leaves(node))
    me, fixed = frozenset([i]), getattr(node, "fixed", ())
    names = [getattr(path[0], "name", None) for path, _ in jax.tree_util.tree_leaves_with_path(node)]
    return [_Value(reads=_NONE if name in fixed else me, image=_Image(me, ())) for name in names]


def _complaint(value: _Value, names: list[str]) -> str:
    def of(families):
        return " and ".join(names[i] for i in sorted(families))

    if value.changed:
        families, name = min(value.changed, key=lambda pair: (sorted(pair[0]), pair[1]))
        return (
            f"calls the log_prob of {of(families)} with `{name}` changed, so that its statistics are not those of the "
            "parameters in theta. Call it on the family as it is in theta, or indexed as a whole, or mapped by jax.vmap"
        )
    if value.reads | value.inside:
        families = value.reads | value.inside
        return (
            f"reads {of(families)} outside of its log_prob, so that its closed-form M step would not see all of ln P. "
            f"Read nothing but log_prob(...) of {of(families)}, whose value must be elbo.extend.tapped(...)"
        )
    if value.curve in _UP | {_FREE}:
        return ""
    return (
        f"takes {value.blame or 'the negative of a logsumexp'} of the log_prob of {of(value.through)}, so that the "
        "closed-form M step need not climb. Sums, multiples that are free of families, maxima and logsumexp are sound"
    )


def _walk(jaxpr: Any, inputs: Sequence[_Value]) -> list[_Value]:
    """The values of a jaxpr's outputs, given those of its inputs."""
    body = getattr(jaxpr, "jaxpr", jaxpr)
    env = dict(zip(body.invars, inputs, strict=True))

    def read(v) -> _Value:
        return _CONSTANT if hasattr(v, "val") else env.get(v, _CONSTANT)

    for eqn in body.eqns:
        operands = [read(v) for v in eqn.invars]
        if any(value != _CONSTANT for value in operands):
            for v, value in zip(eqn.outvars, _apply(eqn, operands), strict=True):
                real = jnp.issubdtype(getattr(v.aval, "dtype", bool), jnp.inexact)
                env[v] = value if real else _discrete(value)
    return [read(v) for v in body.outvars]


def _apply(eqn: Any, operands: list[_Value]) -> list[_Value]:
    """The values of an equation's outputs; at least one operand depends on a family."""
    name, params, count = eqn.primitive.name, eqn.params, len(eqn.outvars)
    if name == "enter":
        return _enter(operands, params["names"])
    if name == "tapped":
        return [_tapped(operands[0], operands[1:], params["entered"])]
    if name in _CALLS:
        return _walk(params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"], operands)
    if name == "cond":
        branches = [_walk(branch, operands[1:]) for branch in params["branches"]]
        return [_touch(_merge(*values), operands[0]) for values in zip(*branches, strict=True)]
    if name == "scan":
        return _scan(eqn, operands)
    if name == "while":
        return _while(params, operands)
    return [_arithmetic(eqn, operands)] * count


def _enter(operands: list[_Value], names: tuple[str, ...]) -> list[_Value]:
    """Fields as the log_prob of their family reads them; those that are not what the tap belongs to are marked."""
    taps = [v for v, name in zip(operands, names, strict=True) if name == "tap"]
    families, moves = _owner(taps)

    def field(value, name):
        if name == "tap" or value.inside:  # a family inside of a family, whose log_prob makes its fields
            return value
        image = value.image
        same = image is not None and image.families == families and (image.moves == moves or not value.reads)
        changed = value.changed if same else value.changed | {(families | value.reads, name)}
        return value._replace(reads=_NONE, inside=families, changed=changed)

    return [field(value, name) for value, name in zip(operands, names, strict=True)]


def _tapped(value: _Value, taps: list[_Value], entered: bool) -> _Value:
    """The value of a log_prob: what it has from its own family is in the statistics."""
    families, moves = _owner(taps)
    changed = value.changed | (_NONE if moves is not None else {(families, "tap")})
    reads = value.reads if entered else value.reads - families
    curve, blame = (_LINEAR, "") if value.curve == _FREE else (_OTHER, value.blame or "a log_prob")
    return _Value(reads, value.inside - families, changed, value.through | families, curve, blame)


def _owner(taps: list[_Value]) -> tuple[frozenset[int], tuple | None]:
    """Whose taps these are, and how they were moved; None if they were changed, or moved in different ways."""
    families = _NONE.union(*(v.inside for v in taps))
    moves = {v.image.moves if v.image is not None else None for v in taps}
    return families, moves.pop() if len(moves) == 1 else None


def _arithmetic(eqn: Any, operands: list[_Value]) -> _Value:
    """The value of the outputs of one operation without a jaxpr of its own."""
    name = eqn.primitive.name
    curve = _curve(eqn, [v.curve for v in operands])
    image = None
    if name in _SAME | _MOVES:
        images = [
            v.image
            for v, atom in zip(operands, eqn.invars, strict=True)
            if not (name in _MOVES and jnp.issubdtype(atom.aval.dtype, jnp.integer) or atom.aval.dtype == bool)
        ]
        known = [i for i in images if i is not None]
        if known and len(known) == len(images):
            families = _NONE.union(*(i.families for i in known))
            before = known[0].moves if len({i.moves for i in known}) == 1 else tuple(i.moves for i in known)
            image = _Image(families, before if name in _SAME else (*before, name))
    value = _merge(*operands)
    blame = value.blame or (name if curve == _OTHER else "")
    return value._replace(curve=curve, blame=blame, image=image, through=value.through if curve != _FREE else _NONE)


def _curve(eqn: Any, curves: list[str]) -> str:
    """How the result of an operation depends on tapped values."""
    name = eqn.primitive.name
    used = [c for c in curves if c != _FREE]
    if not used:
        return _FREE
    if name in _FUNCTIONS:
        return _FUNCTIONS[name].get(used[0], _OTHER)
    if name == "select_n":
        return _join(curves[1:])
    if name in _SAME | _MOVES | _SUMS:
        return _join(curves)
    if name == "neg":
        return _MINUS.get(used[0], used[0])
    if name == "sub":
        left, right = curves
        if right == _FREE or (right == _PEAK and left in _UP):
            return _CONVEX if left == _POWER else left  # less than a constant, it has no logarithm that is convex
        return _join([left, _MINUS.get(right, right)])
    if name in _PRODUCTS or name == "div":
        if len(used) > 1:
            return _POWER if set(used) == {_POWER} and name != "div" else _OTHER
        if name == "div" and curves[1] != _FREE:
            return _OTHER
        scale = getattr(eqn.invars[curves.index(_FREE)], "val", 1)
        return _MINUS.get(used[0], used[0]) if jnp.ndim(scale) == 0 and scale < 0 else used[0]
    if name in ("max", "min", "clamp"):
        if len(used) == 1:  # a bound that stands for an infinity
            return used[0]
        return _PEAK if name == "max" and set(used) <= _UP else _OTHER
    if name == "custom_jvp_call" and eqn.params["call_jaxpr"].jaxpr.debug_info.func_name in _CONVEX_FUNCTIONS:
        return _CONVEX if set(used) <= _UP else _OTHER
    return _OTHER if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact) else _FREE


def _join(curves: Sequence[str]) -> str:
    """Of a sum, or of one of several."""
    used = {c for c in curves if c != _FREE}
    if len(used) <= 1:
        return used.pop() if used else _FREE
    return _CONVEX if used <= _UP else _CONCAVE if used <= _DOWN else _OTHER


def _merge(*values: _Value) -> _Value:
    """One of several, whichever."""
    reads, inside, changed, through = (
        _NONE.union(*(getattr(v, name) for v in values)) for name in ("reads", "inside", "changed", "through")
    )
    blame = next((v.blame for v in values if v.blame), "")
    image = values[0].image if len({v.image for v in values}) == 1 else None
    return _Value(reads, inside, changed, through, _join([v.curve for v in values]), blame, image)


def _touch(value: _Value, other: _Value) -> _Value:
    """A value whose choice depends on another."""
    return _merge(value, _discrete(other))._replace(image=value.image if other == _CONSTANT else None)


def _discrete(value: _Value) -> _Value:
    """A value that is not a real number: a comparison, an index."""
    return value._replace(curve=_FREE, through=_NONE, blame="", image=None)


def _moved(value: _Value, name: str) -> _Value:
    return (
        value if value.image is None else value._replace(image=value.image._replace(moves=(*value.image.moves, name)))
    )


def _scan(eqn: Any, operands: list[_Value]) -> list[_Value]:
    constants, carry, slices = scan_operands(eqn, operands)
    slices = [_moved(v, "scan") for v in slices]
    while True:
        out = _walk(eqn.params["jaxpr"], [*constants, *carry, *slices])
        joined = [_merge(*pair) for pair in zip(carry, out[: len(carry)], strict=True)]
        if joined == carry:
            return carry + [_moved(v, "stack") for v in out[len(carry) :]]
        carry = joined


def _while(params: dict, operands: list[_Value]) -> list[_Value]:
    split = params["cond_nconsts"]
    condition, constants = operands[:split], operands[split : split + params["body_nconsts"]]
    carry = operands[split + len(constants) :]
    while True:
        stops = _walk(params["cond_jaxpr"], [*condition, *carry])[0]
        out = _walk(params["body_jaxpr"], [*constants, *carry])
        joined = [_touch(_merge(*pair), stops) for pair in zip(carry, out, strict=True)]
        if joined == carry:
            return carry
        carry = joined
