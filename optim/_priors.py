"""Priors hung on the families of Θ: their imaginary data, and their log density."""

from typing import Any

import jax
import jax.numpy as jnp

from elbo.extend import PyTree, is_family


def add_prior(theta: PyTree, families: PyTree, prior: PyTree) -> PyTree:
    """The families' statistics with those of the priors' imaginary data added."""
    leaves, treedef = flatten(theta)
    new = [
        s if p is None or s is None else jax.tree.map(jnp.add, s, p.statistics(leaf))
        for leaf, s, p in zip(leaves, treedef.flatten_up_to(families), match_prior(theta, prior), strict=True)
    ]
    return treedef.unflatten(new)


def log_prior(theta: PyTree, prior: PyTree) -> jax.Array | float:
    """Σ ln prior of the families of theta, nats, up to a constant; 0 without priors."""
    pairs = zip(flatten(theta)[0], match_prior(theta, prior), strict=True)
    return sum(p.log_prob(leaf) for leaf, p in pairs if p is not None)


def flatten(theta: PyTree) -> tuple[list, Any]:
    """The leaves of theta, where a family is one leaf, and the tree they hang in."""
    return jax.tree.flatten(theta, is_leaf=is_family)


def match_prior(theta: PyTree, prior: PyTree) -> list:
    """The prior of each leaf of theta, or None; raises where the trees or the kinds do not match."""
    leaves, treedef = flatten(theta)
    if prior is None:
        return [None] * len(leaves)
    try:
        priors = treedef.flatten_up_to(prior)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "prior: its tree does not match theta's. Expected theta with each family replaced by a prior or None, that "
            f"is {treedef}; got {jax.tree.structure(prior, is_leaf=lambda p: hasattr(p, 'log_prob'))}"
        ) from error
    for leaf, p in zip(leaves, priors, strict=True):
        if p is not None and not (is_family(leaf) and hasattr(p, "statistics") and hasattr(p, "log_prob")):
            raise TypeError(
                f"prior: got {type(p).__name__} for a {type(leaf).__name__}; expected an object with "
                "statistics(family) and log_prob(family), such as PseudoData, where theta has a family, None elsewhere"
            )
    return priors
