"""Rules made of rules: one after the other, many times, on part of the parameters, on small batches."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elbo import Params
from elbo.extend import PyTree, axes_of, batch_length, value, varying

from ._arguments import require_count, require_rule
from ._data import check_weights, split
from ._moving import moves
from ._rule import Info, Rule, rule_of


def chain(*rules: Rule) -> Rule:
    """The rules one after the other on the same batch; its state is the tuple of theirs.

    `info.elbo` and `info.objective` are the last rule's; what went wrong in any of them is reported.

    >>> from elbo.optim import Rule
    >>> nothing = Rule(lambda params: (), lambda key, params, state, ys, *, weights=None: (params, state, None))
    >>> len(chain(nothing, nothing).init(None))
    2
    """
    if not rules:
        raise ValueError("rules: got none, expected at least one rule")
    for i, rule in enumerate(rules):
        require_rule(f"rules[{i}]", rule)
    return rule_of(_Chain(rules))


@value
class _Chain:
    rules: tuple[Rule, ...]

    def init(self, params: Params) -> tuple:
        return tuple(rule.init(params) for rule in self.rules)

    def update(self, key, params, state, ys, *, weights=None):
        rules = self.rules
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

    def stream(self, key, params, state, source):
        keys = [None] * len(self.rules) if key is None else list(jax.random.split(key, len(self.rules)))
        new_state, infos = [], []
        for rule, k, s in zip(self.rules, keys, state, strict=True):
            params, s, info = streaming(rule)(k, params, s, source)
            new_state.append(s)
            infos.append(info)
        return params, tuple(new_state), merge(infos)

    def rebuild(self, **options) -> Rule | None:
        new = [rebuilt(rule, **options) for rule in self.rules]
        if all(rule is None for rule in new):
            return None
        return chain(*(old if rule is None else rule for old, rule in zip(self.rules, new, strict=True)))


def merge(infos: list[Info]) -> Info:
    """The last report, with what went wrong in any of them."""
    return worst(jax.tree.map(lambda *a: jnp.stack(a), *infos), infos[-1])


def repeat(rule: Rule, times: int) -> Rule:
    """The rule `times` times on the same batch, in one compiled loop; `info` as in `chain`.

    >>> def double(key, params, state, ys, *, weights=None):
    ...     return jax.tree.map(lambda a: 2 * a, params), state, Info(elbo=0.0, objective=0.0)
    >>> repeat(Rule(lambda params: (), double), 3).update(None, Params(jnp.ones(()), ()), (), None)[0].theta.tolist()
    8.0
    """
    require_rule("rule", rule)
    require_count("times", times)
    return rule_of(_Repeat(rule, times))


@value
class _Repeat:
    rule: Rule
    times: int

    def init(self, params: Params) -> PyTree:
        return self.rule.init(params)

    def update(self, key, params, state, ys, *, weights=None):
        def step(carry, k):
            params, state = carry
            params, state, info = self.rule.update(k, params, state, ys, weights=weights)
            return varying((params, state), axes), info

        axes = axes_of(key, params, state, ys, weights)
        start = varying((params, state), axes)
        (params, state), infos = jax.lax.scan(step, start, split(key, self.times), length=self.times)
        return params, state, worst(infos, jax.tree.map(lambda a: a[-1], infos))

    def stream(self, key, params, state, source):
        infos = []
        for k in [None] * self.times if key is None else jax.random.split(key, self.times):
            params, state, info = streaming(self.rule)(k, params, state, source)
            infos.append(info)
        return params, state, merge(infos)

    def rebuild(self, **options) -> Rule | None:
        new = rebuilt(self.rule, **options)
        return None if new is None else repeat(new, self.times)


def streaming(rule: Rule) -> Any:
    """How a rule takes its data from a stream; raises where it cannot."""
    if rule.stream is None:
        raise TypeError(
            f"rule: {rule!r} takes no stream, only data in memory. Those made by em_step, eg_step, vem_step, vae_step "
            "and of these by chain, repeat, restrict, damp and minibatches do"
        )
    return rule.stream


def worst(infos: Info, last: Info) -> Info:
    """The last report, with what went wrong in any of those that `infos` holds along a leading axis."""
    return last._replace(
        feasible=jnp.all(infos.feasible),
        dropped=jnp.max(infos.dropped),
        empty=jnp.max(infos.empty),
        finite=jnp.all(infos.finite),
        floored=jnp.max(infos.floored),
    )


def restrict(rule: Rule, *where: Any) -> Rule:
    """The rule, moving only the named parts of the parameters; the others keep their values.

    The rule is made again so that it knows nothing but what moves: a gradient step, its clipping, line search, moments
    and state are those of the named leaves; a closed-form M step replaces the named families, and the exact posterior
    still follows Θ. A rule of your own, without a `rebuild`, runs as it is, and what may not move is put back.

    Args:
      rule: any rule.
      where: dotted names of subtrees, such as "theta.weights" or "psi"; or one pytree of bools, a prefix of `Params`.

    Raises:
      ValueError: a name that matches nothing, or a part of a family that a closed-form M step moves as a whole; when
        `init` or `update` is called.

    >>> from elbo.optim import Rule
    >>> def update(key, params, state, ys, *, weights=None):
    ...     return jax.tree.map(lambda a: a + 1, params), state, None
    >>> add = Rule(lambda params: (), update)
    >>> restrict(add, "theta.a").update(None, Params({"a": jnp.zeros(()), "b": jnp.zeros(())}, ()), (), None)[0].theta
    {'a': Array(1., dtype=float32...), 'b': Array(0., dtype=float32...)}
    """
    require_rule("rule", rule)
    if not where:
        raise ValueError("where: got nothing, expected dotted names such as 'theta.weights', or one pytree of bools")
    new = rebuilt(rule, where=(where,))
    assert new is not None  # any rule can be masked
    return new


@value
class _Masked:
    """A rule without `rebuild`: what may not move is put back after its update."""

    rule: Rule
    where: tuple

    def init(self, params: Params) -> PyTree:
        moves(params, self.where)
        return self.rule.init(params)

    def update(self, key, params, state, ys, *, weights=None):
        chosen = moves(params, self.where)
        new, state, info = self.rule.update(key, params, state, ys, weights=weights)
        return jax.tree.map(lambda m, n, o: n if m else o, chosen, new, params), state, info

    def rebuild(self, *, where=(), rate=None, total=None):
        return rule_of(replace(self, where=(*self.where, *where))) if where else None


def rebuilt(rule: Rule, *, where: tuple = (), rate: Any = None, total: jax.Array | None = None) -> Rule | None:
    """The rule with other options (see `Rebuild`), None where they mean nothing to it; any rule can be restricted."""
    if rule.rebuild is not None:
        return rule.rebuild(where=where, rate=rate, total=total)
    return rule_of(_Masked(rule, where)) if where else None


def minibatches(rule: Rule, size: int) -> Rule:
    """One pass of the rule over the data in minibatches, in an order drawn from the key; a short last batch is padded.

    Each batch stands for the whole: the weights of the B data in it are multiplied by N / B, so that a prior is counted
    once beside all N and not anew in every batch. Data of weight 0 are not drawn and not counted in N. A closed-form M
    step on a batch is noisy, and biased: `damp` takes it from running averages.

    `info.elbo` and `info.objective` are means over the data, measured as the parameters move; `info.dropped` and
    `info.weight` are sums over the batches; `info.empty` is the largest of any batch.

    Args:
      rule: any rule.
      size: data in a minibatch.

    >>> def count(key, params, state, ys, *, weights=None):
    ...     return params, state + jnp.sum(weights * ys), Info(elbo=0.0, objective=0.0)
    >>> rule = minibatches(Rule(lambda params: jnp.zeros(()), count), 2)
    >>> params, ys = Params(jnp.ones(()), ()), jnp.array([1.0, 1.0, 1.0, 1.0])
    >>> rule.update(jax.random.key(0), params, rule.init(params), ys)[1].tolist()  # two batches, each for all four
    8.0
    """
    require_rule("rule", rule)
    require_count("size", size)
    return rule_of(_Minibatches(rule, size))


class Drawn(NamedTuple):
    """Minibatches of data in memory.

    Attributes:
      weights: of all data, 0 for those that are not valid, [N].
      valid: which weights are, [N].
      rows: the data of each minibatch, [batches, size].
      real: False where a row is there only to pad, [batches, size].
      shares: what share of all data each minibatch is, [batches].
    """

    weights: jax.Array
    valid: jax.Array
    rows: jax.Array
    real: jax.Array
    shares: jax.Array


@value
class _Minibatches:
    rule: Rule
    size: int
    total: jax.Array | None = None

    def init(self, params: Params) -> PyTree:
        return self.rule.init(params)

    def update(self, key, params, state, ys, *, weights=None):
        if key is None:
            raise ValueError(
                "key: got None, but minibatches() draws the order of the data; pass key=jax.random.key(seed)"
            )
        some = weights is not None
        order_key, step_key = jax.random.split(key)
        weights, valid, rows, real, shares = self.drawn(order_key, params, ys, weights)
        rule = rebuilt(self.rule, total=jnp.sum(weights) if self.total is None else self.total) or self.rule

        def step(carry, inputs):
            k, row, mask, share = inputs
            batch = jax.tree.map(lambda a: a[row], ys)
            scaled = jnp.where(mask, weights[row] / share, 0)

            def move(params, state):
                return varying(rule.update(k, params, state, batch, weights=scaled), axes)

            def stay(params, state):
                return varying((params, state, nothing(jax.eval_shape(move, params, state)[2])), axes)

            params, state, info = jax.lax.cond(share > 0, move, stay, *carry) if some else move(*carry)
            return (params, state), info

        keys, axes = jax.random.split(step_key, len(shares)), axes_of(key, params, state, ys, weights)
        (params, state), infos = jax.lax.scan(step, varying((params, state), axes), (keys, rows, real, shares))
        info = pooled(infos, shares)
        if some:  # a weight that is none is drawn into no batch, and reported all the same
            info = info._replace(
                dropped=info.dropped + jnp.sum(~valid, dtype=jnp.int32), feasible=info.feasible & jnp.all(valid)
            )
        return params, state, info

    def drawn(self, key: jax.Array, params: Params, ys: PyTree, weights: jax.Array | None) -> "Drawn":
        """The minibatches of one pass over data in memory."""
        count = batch_length(ys)
        some = weights is not None
        weights = check_weights(weights, count, params)
        valid = jnp.isfinite(weights) & (weights >= 0)
        weights = jnp.where(valid, weights, 0)
        batches = -(-count // self.size)
        order = jax.random.permutation(key, count)
        if some:
            order = order[jnp.argsort(weights[order] <= 0, stable=True)]
        used = jnp.maximum(jnp.sum(weights > 0), 1) if some else count
        index = jnp.arange(batches * self.size)
        rows = order[index % count].reshape(batches, self.size)
        real = (index < count).reshape(batches, self.size)
        if some:
            real = real & (weights[rows] > 0)
        return Drawn(weights, valid, rows, real, (jnp.sum(real, 1) / used).astype(weights.dtype))

    def stream(self, key, params, state, source):
        if key is None:
            raise ValueError(
                "key: got None, but minibatches() draws the order of the data; pass key=jax.random.key(seed)"
            )
        order_key, step_key = jax.random.split(key)
        total = source.weight()
        infos, shares = [], []
        drawn = source.minibatches(order_key, self.size)
        for k, (ys, weights, share) in zip(jax.random.split(step_key, drawn.length), drawn.parts, strict=True):
            params, state, info = _update(self.rule, k, params, state, ys, weights / share, total)
            infos.append(info)
            shares.append(share)
        return params, state, pooled(jax.tree.map(lambda *a: jnp.stack(a), *infos), jnp.asarray(shares))

    def rebuild(self, *, where=(), rate=None, total=None) -> Rule | None:
        inner = rebuilt(self.rule, where=where, rate=rate) if where or rate is not None else self.rule
        return (
            None if inner is None else rule_of(replace(self, rule=inner, total=self.total if total is None else total))
        )


@partial(jax.jit, static_argnums=0)
def _update(rule, key, params, state, ys, weights, total) -> tuple:
    """The update by a batch that stands for data of this total weight."""
    rule = rebuilt(rule, total=total) or rule
    return rule.update(key, params, state, ys, weights=weights)


def pooled(infos: Info, shares: jax.Array) -> Info:
    """The report of a pass, from those of its batches [B], each of which stood for the whole but is a share of it."""
    weight = jnp.asarray(infos.weight * shares)
    total = jnp.sum(weight)

    def mean(values):
        return jnp.where(
            total > 0, jnp.sum(jnp.where(weight > 0, weight * values, 0)) / jnp.where(total > 0, total, 1), jnp.nan
        )

    return worst(infos, infos)._replace(
        elbo=mean(infos.elbo), objective=mean(infos.objective), dropped=jnp.sum(infos.dropped), weight=total
    )


def nothing(info: Info) -> Info:
    """The report, shaped like `info`, of an update without data."""
    blank = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), info)
    unknown = jnp.full_like(blank.elbo, jnp.nan)
    true = jnp.ones_like(blank.feasible)
    return blank._replace(elbo=unknown, objective=unknown, feasible=true, finite=true)
