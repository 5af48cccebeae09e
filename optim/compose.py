"""Rules made of rules: one after the other, many times, on part of the parameters, on small batches."""

from typing import Any

import jax
import jax.numpy as jnp

from elbo import Params
from elbo.objective import batch_length

from .chunks import check_weights, split
from .rule import Info, Rule

Tree = Any


def chain(*rules: Rule) -> Rule:
    """The rules one after the other on the same batch; its state is the tuple of theirs.

    `info.elbo` and `info.objective` are the last rule's; what went wrong in any of them is reported.

    >>> from optim import Rule
    >>> nothing = Rule(lambda params: (), lambda key, params, state, ys, *, weights=None: (params, state, None))
    >>> len(chain(nothing, nothing).init(None))
    2
    """
    if not rules:
        raise ValueError("rules: got none, expected at least one rule")

    def init(params: Params) -> tuple:
        return tuple(rule.init(params) for rule in rules)

    def update(key, params, state, ys, *, weights=None):
        if len(state) != len(rules):
            raise ValueError(
                f"state: got {len(state)} entries for {len(rules)} chained rules; use the state of this rule's init"
            )
        keys = [None] * len(rules) if key is None else list(jax.random.split(key, len(rules)))
        new_state, infos = [], []
        for rule, k, s in zip(rules, keys, state, strict=True):
            params, s, info = rule.update(k, params, s, ys, weights=weights)
            new_state.append(s)
            infos.append(info)
        return params, tuple(new_state), merge(infos)

    return Rule(init, jax.jit(update))


def merge(infos: list[Info]) -> Info:
    """The last report, with what went wrong in any of them."""
    return infos[-1]._replace(
        feasible=jnp.all(jnp.stack([i.feasible for i in infos])),
        dropped=jnp.max(jnp.stack([i.dropped for i in infos])),
        empty=jnp.max(jnp.stack([i.empty for i in infos])),
        finite=jnp.all(jnp.stack([i.finite for i in infos])),
        floored=jnp.max(jnp.stack([i.floored for i in infos])),
    )


def repeat(rule: Rule, times: int) -> Rule:
    """The rule `times` times on the same batch, in one compiled loop; `info` as in `chain`.

    >>> def double(key, params, state, ys, *, weights=None):
    ...     return jax.tree.map(lambda a: 2 * a, params), state, Info(elbo=0.0, objective=0.0)
    >>> repeat(Rule(lambda params: (), double), 3).update(None, Params(jnp.ones(()), ()), (), None)[0].theta.tolist()
    8.0
    """
    if times < 1:
        raise ValueError(f"times: got {times}, expected at least 1")

    def update(key, params, state, ys, *, weights=None):
        def step(carry, k):
            params, state = carry
            params, state, info = rule.update(k, params, state, ys, weights=weights)
            return (params, state), info

        (params, state), infos = jax.lax.scan(step, (params, state), split(key, times), length=times)
        return params, state, Info(*_reduced(infos, lambda a: a[-1]))

    return Rule(rule.init, jax.jit(update))


def restrict(rule: Rule, *where: Any) -> Rule:
    """The rule, moving only the named parts of the parameters; the others keep their values.

    A closed-form M step moves a family as a whole: half of an argmax is not the argmax of that half, so name whole
    families when the rule is `em_step` or `vem_step` and the objective must not decrease.

    Args:
      rule: any rule.
      where: dotted names of subtrees, such as "theta.weights" or "psi"; or one pytree of bools, a prefix of `Params`.

    >>> from optim import Rule
    >>> def update(key, params, state, ys, *, weights=None):
    ...     return jax.tree.map(lambda a: a + 1, params), state, None
    >>> add = Rule(lambda params: (), update)
    >>> restrict(add, "theta.a").update(None, Params({"a": jnp.zeros(()), "b": jnp.zeros(())}, ()), (), None)[0].theta
    {'a': Array(1., dtype=float32...), 'b': Array(0., dtype=float32...)}
    """
    if not where:
        raise ValueError("where: got nothing, expected dotted names such as 'theta.weights', or one pytree of bools")

    def init(params: Params) -> Tree:
        selected(params, where)
        return rule.init(params)

    def update(key, params, state, ys, *, weights=None):
        moves = selected(params, where)
        new, state, info = rule.update(key, params, state, ys, weights=weights)
        leaves, treedef = jax.tree.flatten(new)
        kept = [n if m else o for n, m, o in zip(leaves, moves, jax.tree.leaves(params), strict=True)]
        return jax.tree.unflatten(treedef, kept), state, info

    return Rule(init, jax.jit(update))


def selected(params: Params, where: tuple) -> list[bool]:
    """Which leaves of params are named, by dotted names or by one prefix tree of bools; raises where none match."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    if all(isinstance(name, str) for name in where):
        for name in where:
            if not any(_within(path, name) for path in paths):
                raise ValueError(
                    f"where: no part of the parameters is named {name!r}; the leaves are: {', '.join(paths)}"
                )
        return [any(_within(path, name) for name in where) for path in paths]
    mask = where[0]
    try:
        full = jax.tree.map(lambda m, part: jax.tree.map(lambda _: m, part), mask, params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"where: the tree of bools {jax.tree.structure(mask)} is not a prefix of the parameters "
            f"{jax.tree.structure(params)}: {error}"
        ) from error
    moves = jax.tree.leaves(full)
    if len(where) > 1 or not all(isinstance(m, bool) for m in moves):
        raise TypeError(f"where: got {where!r}, expected dotted names, or one pytree of Python bools")
    return moves


def minibatches(rule: Rule, size: int) -> Rule:
    """One pass of the rule over the data in minibatches, in an order drawn from the key; a short last batch is padded.

    `info.elbo` and `info.objective` are means over the batches, measured as the parameters move; `info.dropped` is the
    sum over the batches.

    Args:
      rule: any rule.
      size: data in a minibatch.

    >>> def count(key, params, state, ys, *, weights=None):
    ...     return params, state + jnp.sum(weights * ys), Info(elbo=0.0, objective=0.0)
    >>> rule = minibatches(Rule(lambda params: jnp.zeros(()), count), 2)
    >>> params, ys = Params(jnp.ones(()), ()), jnp.array([1.0, 10.0, 100.0])
    >>> rule.update(jax.random.key(0), params, rule.init(params), ys)[1].tolist()
    111.0
    """
    if size < 1:
        raise ValueError(f"size: got {size}, expected at least 1")

    def update(key, params, state, ys, *, weights=None):
        if key is None:
            raise ValueError(
                "key: got None, but minibatches() draws the order of the data; pass key=jax.random.key(seed)"
            )
        count = batch_length(ys)
        weights = check_weights(weights, count, params)
        order_key, step_key = jax.random.split(key)
        batches = -(-count // size)
        order = jax.random.permutation(order_key, count)
        index = jnp.arange(batches * size)
        rows = order[index % count].reshape(batches, size)
        real = (index < count).reshape(batches, size)

        def step(carry, inputs):
            k, row, mask = inputs
            batch = jax.tree.map(lambda a: a[row], ys)
            params, state = carry
            params, state, info = rule.update(k, params, state, batch, weights=jnp.where(mask, weights[row], 0))
            return (params, state), info

        (params, state), infos = jax.lax.scan(step, (params, state), (jax.random.split(step_key, batches), rows, real))
        info = Info(*_reduced(infos, jnp.nanmean))
        return params, state, info._replace(dropped=jnp.sum(infos.dropped), weight=jnp.sum(infos.weight))

    return Rule(rule.init, jax.jit(update))


def _reduced(infos: Info, value) -> tuple:
    return (
        value(infos.elbo),
        value(infos.objective),
        jnp.all(infos.feasible),
        jnp.max(infos.dropped),
        jnp.max(infos.empty),
        jnp.all(infos.finite),
        jnp.max(infos.floored),
        infos.weight[-1],
    )


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(name + ".")
