"""What is not finite in a step that is not made of others: which leaves, and which data are why."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from elbo import Params
from elbo.extend import PyTree, is_family
from elbo.numerics import all_finite, is_feasible

from ._ascent import _assembled, _bounds, _visible
from ._averages import average
from ._data import split
from ._e_step import exact_e_step, expected_statistics
from ._eg import _EG
from ._em import _EM
from ._m_step import _argmax, _narrowed
from ._moving import part
from ._priors import flatten
from ._vae import _VAE
from ._vem import _VEM, _MStep


def is_closed(phase: Any) -> bool:
    """Whether it ends with a closed-form M step, and not with an optimiser's."""
    return isinstance(phase, _EM | _MStep)


def measured_leaves(phase: Any, params: Params, measured: Any) -> tuple[str, ...]:
    """The names of what was measured and is not finite."""
    if is_closed(phase):
        return _names("theta", measured.families, params.theta)
    return _names(_prefix(phase), measured.sums.values)


def _prefix(phase: Any) -> str:
    return {_EG: "theta", _VEM: "psi", _VAE: ""}[type(phase)]


def _names(prefix: str, tree: PyTree, families: PyTree = None) -> tuple[str, ...]:
    """Dotted names of the leaves that are not finite; of the families, where these are given, in place of theirs."""
    if families is None:
        pairs = [(path, bool(_fine(leaf))) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    else:
        known = jax.tree_util.tree_leaves_with_path(families, is_leaf=is_family)
        parts = flatten(families)[1].flatten_up_to(tree)
        pairs = [(path, bool(all_finite(own))) for (path, _), own in zip(known, parts, strict=True)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, flag in pairs if not flag]
    return tuple(".".join(p for p in (prefix, name) if p) for name in names)


def _fine(leaf: jax.Array) -> jax.Array:
    # what stands for ln 0 is −∞ in float16
    return jnp.all(jnp.isfinite(leaf)) if leaf.dtype != jnp.float16 else ~jnp.any(jnp.isnan(leaf) | (leaf == jnp.inf))


def closed_step(phase: Any, params, state, total) -> tuple[str, ...]:
    """The names of what a closed-form M step makes, and is not finite."""
    m_step = phase.m_step if isinstance(phase, _EM) else phase.step.m_step
    own = state if isinstance(phase, _EM) else state[1]
    if m_step.rate is not None:
        total, _ = average(own, m_step.rate, m_step.moving(params), total)
        if leaves := _names("theta", total.families, params.theta):
            return leaves
    return _names("theta", _narrowed(_argmax(params.theta, total, m_step.prior), params.theta))


def optimizer_step(phase: Any, params, state, total) -> tuple[str, ...]:
    """The names of what an optimiser makes of a gradient, and is not finite."""
    ascent, _, whole, chosen = phase._problem(params)
    moving, scale = part(whole, chosen), -1 / (total.sums.weight if ascent.total is None else ascent.total)
    downhill = jax.tree.map(lambda g, p: (g * scale).astype(p.dtype), total.sums.values, moving)
    optimizer, own = optax.with_extra_args_support(ascent.optimizer), state[0] if isinstance(phase, _VEM) else state
    seen, value = _visible(moving), total.sums.bound * scale
    updates, _ = optimizer.update(downhill, own, seen, value=value, grad=downhill, value_fn=lambda _: value)
    return _names(_prefix(phase), jax.tree.map(lambda u, p: u + 0 * p, updates, seen))


@partial(jax.jit, static_argnums=0)
def gradient_flags(phase: Any, key, params, ys, weights) -> jax.Array:
    """Which data have a gradient that is not finite, bool [N]; not those that are left out."""
    ascent, assemble, whole, chosen = phase._problem(params)
    moving, params_of = part(whole, chosen), _assembled(assemble, whole, frozenset())

    def one(row):
        y, k = jax.tree.map(lambda a: a[None], row)

        def value(m):
            return _bounds(ascent, params_of(m, moving), y, k)[0]

        bound, slope = jax.value_and_grad(value)(moving)
        return is_feasible(bound) & ~all_finite(slope)

    many = max(1, min(256, 2**24 // max(1, sum(a.size for a in jax.tree.leaves(moving)))))
    flags = jax.lax.map(one, (ys, split(key, len(weights))), batch_size=many)
    return flags & (weights > 0) & jax.vmap(ascent.model.usable)(ys)


@partial(jax.jit, static_argnums=0)
def closed_flags(phase: Any, key, params, ys, weights) -> jax.Array:
    """Which data have expected statistics that are not finite, bool [N]; not those that are left out."""
    step = phase if isinstance(phase, _EM) else phase.step.ascent
    m_step = phase.m_step if isinstance(phase, _EM) else phase.step.m_step
    if isinstance(phase, _EM):
        params = Params(params.theta, exact_e_step(step.model, params))
    options: Any = dict(estimator=step.estimator, chunk_size=None, moving=m_step.moving(params))

    def one(row):
        y, w, k = row
        y = jax.tree.map(lambda a: a[None], y)
        return ~all_finite(expected_statistics(step.model, params, y, weights=w[None], key=k, **options).families)

    return jax.lax.map(one, (ys, weights, split(key, len(weights))), batch_size=64)
