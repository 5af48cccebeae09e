"""How a function depends on its argument, read off its jaxpr: affine, quadratic, separable, or none of these."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

Tree = Any

KINDS = {1: "affine", 2: "quadratic", None: "neither affine nor quadratic"}
"""What `degree` returns, in words."""

# Only these operations keep a polynomial a polynomial. Whatever z reaches through any other one counts as neither
# affine nor quadratic, so that nothing depends on what a derivative rule says (that of floor is zero).
_SAME_SHAPE = {"add", "sub", "neg", "add_any", "convert_element_type", "copy", "pvary", "reshard", "select_n"}
_LINEAR = _SAME_SHAPE | {
    "broadcast_in_dim",
    "concatenate",
    "cumsum",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "name",
    "optimization_barrier",
    "pad",
    "psum",
    "psum_invariant",
    "reduce_sum",
    "reshape",
    "rev",
    "scatter",
    "scatter-add",
    "scatter-sub",
    "sharding_constraint",
    "slice",
    "split",
    "squeeze",
    "transpose",
}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
_SOLVES = {"triangular_solve", "custom_linear_solve"}
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat", "remat2"}

_HIGH = 3  # the order of anything that is not visibly of order 0, 1 or 2
_FREE, _LOCAL, _SUM, _MIXED = range(4)


class _Form(NamedTuple):
    """How a value depends on z: its order, and how it couples coordinates.

    _LOCAL: an array of z's shape whose entry i depends on z_i alone; _SUM: every entry is a sum of functions of one
    coordinate each; _MIXED: anything.
    """

    order: int
    coupling: int


_CONSTANT, _OTHER = _Form(0, _FREE), _Form(_HIGH, _MIXED)


def degree(f: Callable[[Tree], Tree], z: Tree) -> int | None:
    """Degree of f as a polynomial in z, as far as its structure shows: 1 (affine or constant), 2 (quadratic) or None.

    The answer errs towards None only. Costs tracing time, and nothing at run time.

    Args:
      f: function of a pytree of floating-point arrays; returns a pytree, of which the largest degree counts.
      z: where to trace; only shapes and dtypes are read.

    >>> w = jnp.arange(3.0)
    >>> degree(lambda z: w @ z, w), degree(lambda z: z @ z + w @ z, w), degree(lambda z: jnp.abs(z).sum(), w)
    (1, 2, None)
    """
    order = max((form.order for form in _forms(f, z, None)), default=0)
    return max(order, 1) if order < _HIGH else None


def separable(f: Callable[[jax.Array], jax.Array], z: jax.Array) -> bool:
    """Whether f is visibly a polynomial and a sum of functions of one coordinate of z each: its Hessian is diagonal.

    Errs towards False only.

    >>> separable(lambda z: -0.5 * jnp.sum(z**2), jnp.ones(3)), separable(lambda z: jnp.sum(z) ** 2, jnp.ones(3))
    (True, False)
    """
    return all(form.coupling <= _SUM for form in _forms(f, z, jnp.shape(z)))


def _forms(f: Callable, z: Tree, shape: tuple[int, ...] | None) -> list[_Form]:
    jaxpr = jax.make_jaxpr(f)(z).jaxpr
    return _walk(jaxpr, [_Form(1, _SUM if shape is None else _LOCAL)] * len(jaxpr.invars), shape)


def _walk(jaxpr: Any, inputs: Sequence[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    """The forms of a jaxpr's outputs, given those of its inputs."""
    body: Jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    env = dict(zip(body.invars, inputs, strict=True))

    def read(v) -> _Form:
        return _CONSTANT if hasattr(v, "val") else env.get(v, _CONSTANT)

    for eqn in body.eqns:
        operands = [read(v) for v in eqn.invars]
        if any(form.order for form in operands):
            for v, form in zip(eqn.outvars, _apply(eqn, operands, shape), strict=True):
                dtype = getattr(v.aval, "dtype", jnp.int32)
                env[v] = _OTHER if form.order and not jnp.issubdtype(dtype, jnp.floating) else form
    return [read(v) for v in body.outvars]


def _apply(eqn: Any, operands: list[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    """The forms of an equation's outputs; at least one operand depends on z."""
    name, params, count = eqn.primitive.name, eqn.params, len(eqn.outvars)
    if name in _CALLS:
        return _walk(params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"], operands, shape)
    if name == "cond":
        if operands[0].order:
            return [_OTHER] * count
        return _join(*(_walk(branch, operands[1:], shape) for branch in params["branches"]))
    if name == "scan":
        return _scan(params, operands, shape)
    if name == "while":
        return _while(params, operands, shape)
    return [_arithmetic(eqn, operands, all(v.aval.shape == shape for v in eqn.outvars))] * count


def _arithmetic(eqn: Any, operands: list[_Form], same: bool) -> _Form:
    """The form of the outputs of one arithmetic operation; same: whether they have z's shape."""
    name = eqn.primitive.name
    reads = [form for form in operands if form.order]
    coupling = max(form.coupling for form in reads)
    scaled = (name in _BILINEAR and len(reads) == 1) or (name == "div" and not operands[1].order)
    solved = name in _SOLVES and not any(form.order for form in operands[: _matrices(eqn)])
    if name in _LINEAR or scaled or solved:
        local = coupling == _LOCAL and same and (name in _SAME_SHAPE or name in ("mul", "div"))
        return _Form(max(form.order for form in reads), coupling if local else max(coupling, _SUM))
    local = coupling == _LOCAL
    if name in _BILINEAR:
        order = sum(form.order for form in reads)
        coupling = _MIXED
        if local and name in ("mul", "dot_general"):
            coupling = _LOCAL if name == "mul" else _SUM if _inner(eqn) else _MIXED
        return _Form(min(order, _HIGH), coupling)
    power = _power(eqn)
    if power is None:
        return _OTHER
    return _Form(min(power * operands[0].order, _HIGH), _LOCAL if local else _MIXED)


def _matrices(eqn: Any) -> int:
    """How many leading operands of a linear solve are its matrix."""
    return 1 if eqn.primitive.name == "triangular_solve" else sum(eqn.params["const_lengths"])


def _power(eqn: Any) -> int | None:
    """The exponent of a power, where it is a constant 0, 1, 2, ..."""
    name = eqn.primitive.name
    if name == "square":
        return 2
    if name == "integer_pow":
        exponent = float(eqn.params["y"])
    else:
        exponent = float(getattr(eqn.invars[1], "val", -1)) if name == "pow" else -1.0
    return int(exponent) if exponent >= 0 and exponent.is_integer() else None


def _inner(eqn: Any) -> bool:
    """Whether a dot_general of two arrays of one shape sums the products of corresponding entries."""
    (left, right), _ = eqn.params["dimension_numbers"]
    return tuple(left) == tuple(right) == tuple(range(eqn.invars[0].aval.ndim))


def _scan(params: dict, operands: list[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    constants = operands[: params["num_consts"]]
    carry = operands[len(constants) : len(constants) + params["num_carry"]]
    # a slice of a _LOCAL array, and a stack of such slices, have another shape
    slices = [_weaken(form) for form in operands[len(constants) + len(carry) :]]
    while True:
        out = _walk(params["jaxpr"], [*constants, *carry, *slices], shape)
        joined = _join(carry, out[: len(carry)])
        if joined == carry:
            return carry + [_weaken(form) for form in out[len(carry) :]]
        carry = joined


def _while(params: dict, operands: list[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    split = params["cond_nconsts"]
    condition, constants = operands[:split], operands[split : split + params["body_nconsts"]]
    carry = operands[split + len(constants) :]
    while True:
        joined = _join(carry, _walk(params["body_jaxpr"], [*constants, *carry], shape))
        if joined == carry:
            break
        carry = joined
    stops = _walk(params["cond_jaxpr"], [*condition, *carry], shape)
    return [_OTHER] * len(carry) if stops[0].order else carry


def _join(*alternatives: list[_Form]) -> list[_Form]:
    """The weakest of several forms, entry by entry."""
    return [_Form(*map(max, zip(*forms, strict=True))) for forms in zip(*alternatives, strict=True)]


def _weaken(form: _Form) -> _Form:
    return _Form(form.order, max(form.coupling, _SUM)) if form.order else form
