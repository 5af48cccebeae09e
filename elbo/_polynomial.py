"""How a function depends on its argument, read off its jaxpr: affine, quadratic, separable, or none of these."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from ._types import PyTree

KINDS = {1: "affine", 2: "quadratic", None: "neither affine nor quadratic"}
"""What `degree` returns, in words."""

# Only these operations keep a polynomial a polynomial, and have the derivative of their value. Whatever z reaches
# through any other one counts as neither affine nor quadratic (the derivative of floor is zero, floor is not constant).
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
    "stack",
    "transpose",
    "unstack",
}
BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
_RULES = {"custom_jvp_call", "custom_vjp_call"}
CALLS = {"jit", "pjit", "closed_call", "checkpoint", "remat", "remat2", *_RULES}

_HIGH = 3  # the order of anything that is not visibly of order 0, 1 or 2
_FREE, _LOCAL, _SUM, _MIXED = range(4)


class _Form(NamedTuple):
    """How a value depends on z: its order, how it couples coordinates, and the custom derivative rule that z meets.

    _LOCAL: an array of z's shape whose entry i depends on z_i alone; _SUM: every entry is a sum of functions of one
    coordinate each; _MIXED: anything. `obstacle` names what made the order _HIGH, or the rule ("" for neither).
    """

    order: int
    coupling: int
    obstacle: str = ""


_CONSTANT = _Form(0, _FREE)


class Dependence(NamedTuple):
    """How a function depends on z, as far as its structure shows.

    Attributes:
      degree: of its values, as a polynomial in z: 1 (affine or constant), 2 (quadratic) or None.
      obstacle: why a derivative in z may not be read: the operation that is no polynomial, or the name of a custom
        derivative rule (`jax.custom_jvp`, `jax.custom_vjp`), which need not be the derivative of the values; "" where
        derivatives are those of the polynomial.
    """

    degree: int | None
    obstacle: str


def dependence(f: Callable[[PyTree], PyTree], z: PyTree) -> Dependence:
    """How f depends on z. The arguments are those of `degree`; of several outputs the largest degree counts.

    >>> dependence(lambda z: jnp.tanh(z).sum(), jnp.arange(3.0))
    Dependence(degree=None, obstacle='tanh')
    """
    return _summary(_forms(f, z, None))


def degree(f: Callable[[PyTree], PyTree], z: PyTree) -> int | None:
    """Degree of f as a polynomial in z, as far as its structure shows: 1 (affine or constant), 2 (quadratic) or None.

    The answer errs towards None only. Derivatives of f in z may be read: None too where z meets a custom derivative
    rule (see `dependence`). Costs tracing time, and nothing at run time.

    Args:
      f: function of a pytree of arrays; returns a pytree, of which the largest degree counts. None where an array of z
        on which f depends is not floating point: its mean is none of its values.
      z: where to trace; only shapes and dtypes are read.

    >>> w = jnp.arange(3.0)
    >>> degree(lambda z: w @ z, w), degree(lambda z: z @ z + w @ z, w), degree(lambda z: jnp.abs(z).sum(), w)
    (1, 2, None)
    """
    found = dependence(f, z)
    return None if found.obstacle else found.degree


def separable(f: Callable[[jax.Array], jax.Array], z: jax.Array) -> bool:
    """Whether f is visibly a polynomial and a sum of functions of one coordinate of z each: its Hessian is diagonal.

    Errs towards False only.

    >>> separable(lambda z: -0.5 * jnp.sum(z**2), jnp.ones(3)), separable(lambda z: jnp.sum(z) ** 2, jnp.ones(3))
    (True, False)
    """
    return all(form.coupling <= _SUM and not form.obstacle for form in _forms(f, z, jnp.shape(z)))


def meets(f: Callable[[PyTree], PyTree], z: PyTree) -> set[str]:
    """Names of JAX's operations that values depending on z meet in f; of a choice, only where z decides.

    >>> sorted(meets(lambda z: jnp.where(z > 0, jnp.exp(z), 0.0) + jnp.log(2.0), 1.0))
    ['add', 'exp', 'gt', 'select_n']
    """
    names: set[str] = set()

    def walk(jaxpr, reads):
        body: Jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        known = {v for v, read in zip(body.invars, reads, strict=True) if read}
        for eqn in body.eqns:
            operands = [not hasattr(v, "val") and v in known for v in eqn.invars]
            if not any(operands):
                continue
            known.update(eqn.outvars)
            name, parts = eqn.primitive.name, [b for p in eqn.params.values() for b in _bodies(p)]
            if name in CALLS:
                walk(eqn.params["call_jaxpr"] if "call_jaxpr" in eqn.params else eqn.params["jaxpr"], operands)
                continue
            for part in parts:  # of a loop, or a branch: everything in it may depend on z
                walk(part, [True] * len(getattr(part, "jaxpr", part).invars))
            if not (name in ("select_n", "cond") and not operands[0]) and not (parts and name != "cond"):
                names.add(name)

    jaxpr = jax.make_jaxpr(f)(z).jaxpr
    walk(jaxpr, [True] * len(jaxpr.invars))
    return names


def _bodies(parameter: Any) -> list[Any]:
    candidates = parameter if isinstance(parameter, tuple) else (parameter,)
    return [p for p in candidates if isinstance(getattr(p, "jaxpr", p), Jaxpr)]


def _forms(f: Callable, z: PyTree, shape: tuple[int, ...] | None) -> list[_Form]:
    jaxpr = jax.make_jaxpr(f)(z).jaxpr
    start = _Form(1, _SUM if shape is None else _LOCAL)
    return _walk(jaxpr, [start if _is_real(v) else _other(f"{v.aval.dtype} z") for v in jaxpr.invars], shape)


def _summary(forms: list[_Form]) -> Dependence:
    order = max((form.order for form in forms), default=0)
    return Dependence(max(order, 1) if order < _HIGH else None, _obstacle(forms))


def _other(obstacle: str) -> _Form:
    return _Form(_HIGH, _MIXED, obstacle)


def _is_real(v: Any) -> bool:
    return jnp.issubdtype(getattr(v.aval, "dtype", jnp.int32), jnp.floating)


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
                env[v] = _other(form.obstacle or eqn.primitive.name) if form.order and not _is_real(v) else form
    return [read(v) for v in body.outvars]


def _apply(eqn: Any, operands: list[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    """The forms of an equation's outputs; at least one operand depends on z."""
    name, params, count = eqn.primitive.name, eqn.params, len(eqn.outvars)
    if params.get("name") == "on_support":  # that z is one that a distribution knows is checked, not a term
        operands = [_CONSTANT if v.aval.dtype == bool else f for v, f in zip(eqn.invars, operands, strict=True)]
    if name in CALLS:
        body = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
        forms = _walk(body, operands, shape)
        return [_ruled(form, body) for form in forms] if name in _RULES else forms
    if name == "custom_linear_solve":
        return _solve(params, operands, shape)
    if name == "cond":
        if operands[0].order:
            return [_other(operands[0].obstacle or "cond")] * count
        return _join(*(_walk(branch, operands[1:], shape) for branch in params["branches"]))
    if name == "scan":
        return _scan(eqn, operands, shape)
    if name == "while":
        return _while(params, operands, shape)
    return [_arithmetic(eqn, operands, all(v.aval.shape == shape for v in eqn.outvars))] * count


def _arithmetic(eqn: Any, operands: list[_Form], same: bool) -> _Form:
    """The form of the outputs of one arithmetic operation; same: whether they have z's shape."""
    name = eqn.primitive.name
    reads = [form for form in operands if form.order]
    coupling = max(form.coupling for form in reads)
    scaled = (name in BILINEAR and len(reads) == 1) or (name == "div" and not operands[1].order)
    solved = name == "triangular_solve" and not operands[0].order
    obstacle = _obstacle(reads)
    if name in _LINEAR or scaled or solved:
        local = coupling == _LOCAL and same and (name in _SAME_SHAPE or name in ("mul", "div"))
        return _Form(max(form.order for form in reads), coupling if local else max(coupling, _SUM), obstacle)
    local = coupling == _LOCAL
    if name in BILINEAR:
        order = sum(form.order for form in reads)
        coupling = _MIXED
        if local and name in ("mul", "dot_general"):
            coupling = _LOCAL if name == "mul" else _SUM if _inner(eqn) else _MIXED
        return _raised(order, coupling, name, obstacle)
    exponent = power(eqn)
    if exponent is None:
        return _other(obstacle or name)
    return _raised(exponent * operands[0].order, _LOCAL if local else _MIXED, name, obstacle)


def _raised(order: int, coupling: int, name: str, rule: str) -> _Form:
    """The form of a product, named so, of forms that met a rule or none."""
    return _Form(order, coupling, rule) if order < _HIGH else _Form(_HIGH, coupling, rule or name)


def _obstacle(forms: Sequence[_Form]) -> str:
    """The first obstacle; that of the highest order, where the orders differ."""
    worst = max((form.order for form in forms), default=0)
    first = [form.obstacle for form in forms if form.obstacle and (worst < _HIGH or form.order == worst)]
    return first[0] if first else ""


def _ruled(form: _Form, body: Any) -> _Form:
    """The form of an output of a function with a custom derivative rule: that of its body, and no derivative."""
    name = getattr(getattr(body, "jaxpr", body).debug_info, "func_name", "a function")
    # of order 1 even where the body ignores z: the rule need not
    return form._replace(order=max(form.order, 1), obstacle=form.obstacle or f"the custom derivative rule of {name}")


def _solve(params: dict, operands: list[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    """A linear solve: affine in its right-hand side where the solver itself is, and the matrix does not depend on z."""
    lengths, jaxprs = params["const_lengths"], params["jaxprs"]
    matrices, right = operands[: sum(lengths)], operands[sum(lengths) :]
    if any(form.order for form in matrices):
        return [_other(_obstacle(matrices) or "custom_linear_solve")] * len(right)
    return _walk(jaxprs.solve, [_CONSTANT] * lengths.solve + [_weaken(form) for form in right], shape)


def power(eqn: Any) -> int | None:
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


def _shape(v: Any) -> tuple[int, ...]:
    return v.aval.shape


def scan_operands(eqn: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """What stands for a scan's constants, for its carry, and for what it scans over.

    Told by shapes, for versions of JAX name the counts in different ways: an array that is scanned over has an axis
    more than its slice in the body, and an output that is stacked one more than there.
    """
    body: Jaxpr = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    inside, outside = ([len(_shape(v)) for v in [*e.invars, *e.outvars]] for e in (body, eqn))
    same, count = [a == b for a, b in zip(inside, outside, strict=True)], len(body.invars)
    scanned, carried = same[:count].count(False), same[count:].count(True)
    end = len(operands) - scanned
    return list(operands[: end - carried]), list(operands[end - carried : end]), list(operands[end:])


def _scan(eqn: Any, operands: list[_Form], shape: tuple[int, ...] | None) -> list[_Form]:
    constants, carry, slices = scan_operands(eqn, operands)
    # a slice of a _LOCAL array, and a stack of such slices, have another shape
    slices = [_weaken(form) for form in slices]
    while True:
        out = _walk(eqn.params["jaxpr"], [*constants, *carry, *slices], shape)
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
    return [_other(stops[0].obstacle or "while")] * len(carry) if stops[0].order else carry


def _join(*alternatives: list[_Form]) -> list[_Form]:
    """The weakest of several forms, entry by entry."""

    return [
        _Form(max(f.order for f in forms), max(f.coupling for f in forms), _obstacle(forms))
        for forms in zip(*alternatives, strict=True)
    ]


def _weaken(form: _Form) -> _Form:
    return form._replace(coupling=max(form.coupling, _SUM)) if form.order else form
