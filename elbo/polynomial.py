"""How a function depends on its argument, read off its jaxpr while tracing: affine, quadratic, separable, or none of these."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jax.interpreters import partial_eval

Tree = Any

# Their derivative is zero, but they are not constant: a function that uses one of them is no polynomial.
_FLAT = {"floor", "ceil", "round", "sign", "stop_gradient", "nextafter", "clamp", "reduce_precision"}
_ELEMENTWISE = {"add", "sub", "mul", "div", "neg", "integer_pow", "square", "convert_element_type", "copy", "add_any"}
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat", "remat2"}


def degree(f: Callable[[Tree], Tree], z: Tree) -> int | None:
    """Degree of f as a polynomial in z, as far as its structure shows: 1 (affine), 2 (quadratic) or None.

    f is affine when its tangent does not read z (the jvp, after dead code is eliminated), quadratic when the tangent of
    the tangent does not. The answer errs towards None only. Costs tracing time, and nothing at run time.

    Args:
      f: function of a pytree of floating-point arrays.
      z: where to trace; only shapes and dtypes are read.

    >>> w = jnp.arange(3.0)
    >>> degree(lambda z: w @ z, w), degree(lambda z: z @ z + w @ z, w), degree(lambda z: jnp.exp(z).sum(), w)
    (1, 2, None)
    """
    z = jax.tree.map(jnp.zeros_like, z)
    jaxpr, used = _live(f, z)
    if _flat(jaxpr, [True] * sum(used)):
        return None

    def tangent(z, dz):
        return jax.jvp(f, (z,), (dz,))[1]

    def second(z, dz, ddz):
        return jax.jvp(lambda z: tangent(z, dz), (z,), (ddz,))[1]

    if not _reads_first(tangent, z, z):
        return 1
    return None if _reads_first(second, z, z, z) else 2


def separable(f: Callable[[jax.Array], jax.Array], z: jax.Array) -> bool:
    """Whether f is visibly a sum of functions of one coordinate of z each, so that its Hessian is diagonal.

    Errs towards False only: true when the gradient reaches z through elementwise operations on arrays of z's shape.

    >>> separable(lambda z: -0.5 * jnp.sum(z**2), jnp.ones(3)), separable(lambda z: jnp.sum(z) ** 2, jnp.ones(3))
    (True, False)
    """
    jaxpr, used = _live(jax.grad(f), z)
    return all(
        eqn.primitive.name in _ELEMENTWISE and all(v.aval.shape == z.shape for v in eqn.outvars)
        for eqn in _dependent(jaxpr, [True] * sum(used))
    )


def _reads_first(f: Callable, first: Tree, *rest: Tree) -> bool:
    """Whether f's outputs read any array of its first argument, once dead code is gone."""
    return any(_live(f, first, *rest)[1][: len(jax.tree.leaves(first))])


def _flat(jaxpr: Jaxpr, reads: Sequence[bool]) -> bool:
    """Whether z reaches a value through an operation without a derivative: an integer, a comparison, a rounding."""
    return any(
        eqn.primitive.name in _FLAT
        or not all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in eqn.outvars if hasattr(v.aval, "dtype"))
        or any(_flat(body, [True] * len(body.invars)) for body in _bodies(eqn))
        for eqn in _dependent(jaxpr, reads)
    )


def _dependent(jaxpr: Jaxpr, reads: Sequence[bool]):
    """The equations that depend on the inputs marked in reads, in order."""
    tainted = {v for v, r in zip(jaxpr.invars, reads, strict=True) if r}
    for eqn in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in tainted for v in eqn.invars):
            tainted.update(eqn.outvars)
            yield eqn


def _live(f: Callable, *args: Tree) -> tuple[Jaxpr, list[bool]]:
    """The jaxpr of f with calls inlined and dead code removed, and which of the arguments' arrays are left in it."""
    closed = jax.make_jaxpr(f)(*args)
    inlined = jax.make_jaxpr(lambda *leaves: _inline(closed.jaxpr, closed.consts, leaves))(*jax.tree.leaves(args)).jaxpr
    return partial_eval.dce_jaxpr(inlined, [True] * len(inlined.outvars))


def _inline(jaxpr: Jaxpr, consts: Sequence, args: Sequence) -> list:
    """Evaluates a jaxpr with calls inlined and x⁰, x¹ simplified (the derivatives of x² are written with them)."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        values = [v.val if hasattr(v, "val") else env[v] for v in eqn.invars]
        name, params = eqn.primitive.name, eqn.params
        if name == "integer_pow" and params["y"] in (0, 1):
            out = values if params["y"] else [jnp.ones(values[0].shape, values[0].dtype)]
        elif name in _CALLS:
            body = params.get("call_jaxpr", params.get("jaxpr"))
            out = _inline(getattr(body, "jaxpr", body), getattr(body, "consts", ()), values)
        else:
            out = eqn.primitive.bind(*values, **params)
            out = out if eqn.primitive.multiple_results else [out]
        env.update(zip(eqn.outvars, out, strict=True))
    return [v.val if hasattr(v, "val") else env[v] for v in jaxpr.outvars]


def _bodies(eqn):
    """The jaxprs inside an equation (the body of a scan, the branches of a cond)."""
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
