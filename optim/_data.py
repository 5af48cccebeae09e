"""Data as the rules take them in: their weights and keys; what is not feasible is left out before the derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from elbo import Params
from elbo.extend import PyTree, at_least_single, axes_of, dtype_of, varying
from elbo.numerics import all_finite


def settle(f: Callable[..., tuple[PyTree, jax.Array]], shapes: PyTree, good: jax.Array, *args: PyTree) -> tuple:
    """`f(good, *args)`, where f gives sums over the good data, and which of them are feasible.

    NaN times weight 0 is NaN. If some data are not feasible while a sum is not finite, they may be why, and a second
    turn of the same compiled loop leaves them out, too. Where all is well there is one turn.

    Args:
      f: gives `(sums, left)`, `left` bool [N]; it closes over no tracer.
      shapes: of the sums; zeros of these shapes where no turn is taken.
      good: which data can be used at all, bool [N].
      args: the other arguments, pytrees of arrays.

    Returns:
      Whether the sums are finite, the sums, and what is left of good. Differentiable in both modes: the derivative is
      that of the last turn.
    """
    axes = axes_of(good, args)
    # an array that is given twice (Ψ tied to Θ) stays one array in the loop, so that what is made of it is made once
    leaves = jax.tree.leaves(args)
    names = list(dict.fromkeys(map(id, leaves)))
    place = [names.index(id(leaf)) for leaf in leaves]
    once = dict(zip(map(id, leaves), leaves, strict=True)).values()

    def unfolded(good, once):
        return f(good, *jax.tree.unflatten(jax.tree.structure(args), [once[i] for i in place]))

    def loop(good, once):
        def body(carry):
            *_, good = carry
            sums, left = unfolded(good, once)
            finite = all_finite(sums)
            return varying((jnp.any(left != good) & ~finite, finite, sums, left), axes)

        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        start = varying((jnp.array(True), jnp.array(True), nothing, good), axes)
        return jax.lax.while_loop(lambda carry: carry[0], body, start)[1:]

    settled = jax.custom_jvp(loop)

    @settled.defjvp
    def settled_jvp(primals, tangents):
        # a loop whose turns depend on the data has no derivative in reverse mode; its last turn has
        finite, _, left = loop(*jax.lax.stop_gradient(primals))
        return jax.jvp(lambda once: (finite, *unfolded(left, once)), primals[1:], tangents[1:])

    return settled(good, list(once))


def replaced(good: jax.Array, data: PyTree) -> PyTree:
    """Data, a pytree of arrays with a leading axis N, with those that are not good replaced by the first that is."""
    size = good.shape[0]
    # a minimum is vectorised where argmax is not
    first = jnp.minimum(jnp.min(jnp.where(good, jnp.arange(size), size)), size - 1)

    def replace(leaf):
        stand_in = leaf[first]
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            stand_in = jnp.where(jnp.isfinite(stand_in), stand_in, 0)  # if none is good
        return jnp.where(good.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, stand_in)

    return jax.tree.map(replace, data)


def check_weights(weights: jax.Array | None, size: int, params: Params) -> jax.Array:
    """Weights [N] in the dtype that sums over data are taken in, 1 by default; raises on another shape."""
    dtype = at_least_single(dtype_of(params))
    if weights is None:
        return jnp.ones(size, dtype)
    if isinstance(weights, list | tuple):
        raise TypeError(f"weights: got a {type(weights).__name__}, expected one array [{size}]: jnp.asarray(weights)")
    if jnp.shape(weights) != (size,):
        raise ValueError(f"weights: got shape {list(jnp.shape(weights))}, expected [{size}], one for each datum of ys")
    return jnp.asarray(weights, dtype)


def split(key: jax.Array | None, size: int) -> jax.Array | None:
    """One key per datum, or None."""
    return None if key is None else jax.random.split(key, size)
