"""The derivative rules that ln Z and the marginals of every structure have."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..._types import PyTree


def inner(a: PyTree, b: PyTree) -> jax.Array:
    """⟨a, b⟩ of two pytrees of arrays, a scalar, linear in both."""
    # sums, for a batch of short dot products is slow on a CPU
    first, *rest = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))
    return functools.reduce(jnp.add, rest, first)


def differentiable(
    value: Callable[[PyTree, PyTree], jax.Array],
    both: Callable[[PyTree, PyTree], tuple],
    slow: Callable[[PyTree, PyTree], tuple],
    clean: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> tuple[Callable[[PyTree, PyTree], jax.Array], Callable[[PyTree, PyTree], tuple]]:
    """log_partition and smooth, jit-compiled, with derivatives of any order in the potentials.

    d ln Z = ⟨marginals, d potentials⟩. The marginals have the derivatives of `slow`, plain arithmetic without rules of
    its own; where only ln Z is differentiated once, nothing asks for it.

    Args:
      value: `value(potentials, sizes)` -> ln Z, however it is computed.
      both: `both(potentials, sizes)` -> ln Z, marginals, and more of the same kind.
      slow: the same as both, differentiable by JAX.
      clean: what the three do first with the potentials, if it hides some of them: no tangent comes from those.
    """

    def slope(marginals, primals, tangents):
        tangent = tangents[0]
        if clean is not None:
            _, tangent = jax.jvp(lambda p: clean(p, primals[1]), (primals[0],), (tangent,))
        return inner(tangent, marginals)

    # by the name of this one it is known that ln Z is convex in the potentials (`elbo/untapped.py`)
    @jax.custom_jvp
    @jax.jit
    def log_partition(potentials, sizes):
        return value(potentials, sizes)

    @jax.custom_jvp
    @jax.jit
    def smooth(potentials, sizes):
        return both(potentials, sizes)

    @log_partition.defjvp
    def _log_partition_jvp(primals, tangents):
        log_z, marginals, *_ = smooth(*primals)
        return log_z, slope(marginals, primals, tangents)

    @smooth.defjvp
    def _smooth_jvp(primals, tangents):
        out = smooth(*primals)
        _, slopes = jax.jvp(lambda p: slow(p, primals[1])[1:], (primals[0],), (tangents[0],))
        return out, (slope(out[1], primals, tangents), *slopes)

    return log_partition, smooth
