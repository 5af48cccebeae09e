"""Common subexpressions of a traced function, computed once.

An encoder and a log_joint often compute the same likelihoods. The compiler merges them in straight-line code, but not
in the body of a loop, where it first hoists their constants apart; so it is done here, on the jaxpr.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr

_CALLS = {"jit", "pjit", "closed_call"}


def share(f: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], list, Any]:
    """f, of pytrees of arrays, with equal operations on equal arrays computed once; same values and derivatives.

    Args:
      f: traced once, here.
      args: its arguments, or others of the same shapes.

    Returns:
      `g(consts, *args)`, those consts (the tracers that f closes over), and the shapes of what it returns.

    >>> import jax.numpy as jnp
    >>> g, consts, _ = share(lambda x: jnp.sin(x) + jnp.sin(x), 1.0)
    >>> str(jax.make_jaxpr(g)(consts, 1.0)).count("sin")
    1
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
    traced = [isinstance(c, jax.core.Tracer) for c in closed.consts]

    def shared(consts, *args):
        known = iter(consts)
        every = [next(known) if t else c for c, t in zip(closed.consts, traced, strict=True)]
        out = _evaluate(closed.jaxpr, every, jax.tree.leaves(args), {})
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return shared, [c for c, t in zip(closed.consts, traced, strict=True) if t], shape


def _evaluate(jaxpr: Jaxpr, consts: Sequence, args: Sequence, known: dict) -> list:
    """Evaluates a jaxpr with calls inlined; `known` maps an operation on operands, by id, to its results."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom):
        return atom.val if hasattr(atom, "val") else env[atom]

    def name(atom):
        value = read(atom)
        opaque = isinstance(value, jax.core.Tracer) or jax.dtypes.issubdtype(
            jax.typeof(value).dtype, jax.dtypes.extended
        )
        if opaque or np.size(value) > 1:
            return id(value)
        return str(jax.typeof(value)), np.asarray(value).tobytes()  # a constant is its value, wherever it was made

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        if eqn.primitive.name in _CALLS:
            body: Any = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            out = _evaluate(getattr(body, "jaxpr", body), getattr(body, "consts", ()), values, known)
        else:
            key = None if eqn.effects else (eqn.primitive, _hashable(eqn.params), *map(name, eqn.invars))
            if key is not None and key[1] is not None and key in known:
                out = known[key][0]
            else:
                with jax.named_scope(str(eqn.source_info.name_stack)):  # a profile tells passes apart
                    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
                out = out if eqn.primitive.multiple_results else [out]
                known[key] = out, values
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _hashable(params: dict) -> tuple | None:
    key = tuple(sorted(params.items(), key=lambda item: item[0]))
    try:
        hash(key)
    except TypeError:
        return None
    return key
