"""Incremental EM: expected statistics of blocks of data, one of them renewed at a time, and an M step after each."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from elbo import Estimator, Model, Params
from elbo.extend import Chunks, ChunkSize, PyTree, axes_of, batch_length, value, varying, widened

from ._arguments import require_count, require_model, require_params
from ._data import check_weights
from ._e_step import Statistics, exact_e_step, expected_statistics
from ._finite import select
from ._m_step import MStep
from ._moving import flatten_moving, require_methods
from ._rule import Info, Rule, rule_of


class Held(NamedTuple):
    """What is held of the posterior q of a part of the data; additive.

    Attributes:
      families: Σ w E_q[T] of the families that move, None elsewhere.
      rest: what of Σ w L(q, Θ) is not told by `families`: the entropy of q, and what does not move; nats.
      weight: Σ w over the feasible data.
      dropped: how many are not; int.
    """

    families: PyTree
    rest: jax.Array
    weight: jax.Array
    dropped: jax.Array


class Blocks(NamedTuple):
    """The state of incremental EM.

    Attributes:
      held: of each block, with a leading axis [blocks]; in the coordinates of `measured`.
      measured: the families at the beginning of the last pass, in no less than float32; None for what does not move.
      known: whether there was a pass; a bool.
    """

    held: Held
    measured: PyTree
    known: jax.Array


def incremental_em_step(
    model: Model,
    blocks: int,
    *,
    prior: PyTree = None,
    chunk_size: ChunkSize = "auto",
    estimator: Estimator | None = None,
    keep: bool = False,
) -> Rule:
    """Incremental EM (Neal & Hinton 1998) as a rule: one pass over the data in blocks, with an M step after each block.

    The expected statistics of every block are held. The E step renews those of one block, and the M step reads the sum
    of all. Parameters so move many times in a pass, which costs the E steps of one step of EM, and a closed-form M step
    for each block. Each of these steps maximises one objective in one of its arguments, so that none can decrease it,
    but for rounding: with q the held posteriors, one for each datum, that is

        L(q, Θ) + ln prior(Θ) = Σ w (E_q ln P_Θ(z, y) + H(q)) + ln prior(Θ) <= ln P_Θ(ys) + ln prior(Θ).

    ln P_Θ(ys) itself may fall on the way; at a fixed point both are equal, and the fixed points are those of `em_step`.
    The first pass has no M step before its end: it is a step of EM, and with one block all are.

    The sum of the blocks is added up anew in every pass, and nothing is ever subtracted, so that rounding does not add
    up. `info.objective` is that of the parameters given, the first block renewed and the other posteriors as held,
    divided by Σ w: it rises from pass to pass. An update is rejected as a whole where a number of it is not finite.

    Every update must be given the same data in the same order: it is for data that come again. On a stream a block is
    a batch. For data seen once, or minibatches drawn anew, use `damp`.

    Args:
      model: with an exact encoder, and families as the leaves of theta; they need `rebase`.
      blocks: into how many the data are cut, in their order. More make each pass go further, as long as the M steps
        cost little beside the E steps; data that are sorted should be shuffled before.
      prior, chunk_size, estimator, keep: as in `em_step`.

    Returns:
      The rule. Its state holds the statistics of each block: `blocks` times the size of those of theta.

    >>> import elbo
    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.array([[0.0], [5.0], [1.0], [6.0], [2.0], [8.0]])
    >>> model, start = mixture.model(2), mixture.init(jax.random.key(0), ys, 2)
    >>> rules = optim.em_step(model), optim.incremental_em_step(model, 3)
    >>> em, incremental = (optim.run(rule, start, ys, steps=4) for rule in rules)
    >>> bool((jnp.diff(incremental.history.objective) > -1e-6).all())
    True
    >>> bool(incremental.final.objective > em.final.objective)
    True
    """
    require_model(model)
    require_count("blocks", blocks)
    return rule_of(_Incremental(model, blocks, MStep(prior, keep), chunk_size, estimator))


@value
class _Incremental:
    model: Model
    blocks: int
    m_step: MStep
    chunk_size: ChunkSize
    estimator: Estimator | None

    def init(self, params: Params) -> Blocks:
        require_params(params)
        exact_e_step(self.model, params)
        measured = jax.tree.map(jnp.copy, self._measured(params))  # the parameters may be donated
        for family in flatten_moving(measured)[0]:
            if family is not None:
                require_methods(family, ("rebase",), "statistics that are held")
        families = _map(lambda family: family.zero_statistics(), measured)
        zero = jnp.zeros((), jnp.result_type(float, *(a.dtype for a in jax.tree.leaves(families))))
        held = Held(families, zero, zero, jnp.zeros((), jnp.int32))
        many = jax.tree.map(lambda a: jnp.zeros((self.blocks, *a.shape), a.dtype), held)
        return Blocks(many, measured, jnp.array(False))

    def update(self, key, params, state, ys, *, weights=None):
        require_params(params)
        size = batch_length(ys)
        if self.blocks > size:
            raise ValueError(f"blocks: got {self.blocks} for {size} data, expected at most {size}")
        self._check(state)
        weights = check_weights(weights, size, params)
        chunks, axes = Chunks(size, -(-size // self.blocks)), axes_of(key, params, state, ys, weights)

        def step(carry, inputs):
            i, later = inputs
            fresh, (part, w) = chunks.part(i * chunks.each, (ys, weights))
            new, done = carry
            new, done, *told = self._renew(key, opened, i, later, new, done, part, jnp.where(fresh, w, 0))
            return varying((new, done), axes), told

        opened, later = varying(self._open(params, state), axes)
        start = varying((params, _nothing(opened.held)), axes)
        (new, _), (held, infos) = jax.lax.scan(step, start, (jnp.arange(self.blocks), later))
        return self._close(params, state, opened, new, held, infos)

    def stream(self, key, params, state, source):
        self._check(state)
        opened, later = _open(self, params, state)
        new, done, parts = params, _nothing(opened.held), []
        for i, (ys, weights, _) in enumerate(source.parts()):
            if i < self.blocks:  # else they are counted for the message
                own = jax.tree.map(lambda a, i=i: a[i], later)
                new, done, *part = _renew(self, key, opened, i, own, new, done, ys, weights)
                parts.append(part)
        if i + 1 != self.blocks:
            raise ValueError(
                f"blocks: got {self.blocks}, but the stream gives {i + 1} batches; a block is a batch: "
                f"incremental_em_step(model, {i + 1})"
            )
        return _close(self, params, state, opened, new, *jax.tree.map(lambda *a: jnp.stack(a), *parts))

    def rebuild(self, *, where=(), rate=None, total=None) -> Rule | None:
        if total is not None:
            raise TypeError(
                "rule: incremental EM holds the statistics of the same data from update to update, and cannot be run "
                "on minibatches that are drawn anew; use damp(model, em_step(model), rate) there"
            )
        return rule_of(replace(self, m_step=self.m_step.rebuild(where, None))) if where else None

    def _open(self, params: Params, state: Blocks) -> tuple[Blocks, Held]:
        """The state in the coordinates of params, and for each block the sum of those after it, [blocks]."""
        measured = self._measured(params)

        def move(family, old, many):
            return jax.vmap(lambda s: family.rebase(s, old))(many)

        held = state.held._replace(families=_map(move, measured, state.measured, state.held.families))
        # what is not known has no coordinates: the parameters may have been of any kind
        held = jax.tree.map(lambda a: jnp.where(state.known, a, 0), held)

        def after(a):
            return jnp.concatenate([jnp.cumsum(a[:0:-1], 0)[::-1], jnp.zeros_like(a[:1])]).astype(a.dtype)

        return Blocks(held, measured, state.known), jax.tree.map(after, held)

    def _renew(self, key, opened: Blocks, i, later: Held, params: Params, done: Held, ys, weights) -> tuple:
        """One block's E step, and an M step from all; the parameters, the sum of renewed blocks, the block, `Info`."""
        own = None if key is None else jax.random.fold_in(key, i)
        psi = exact_e_step(self.model, params)
        tied = Params(params.theta, psi)
        options: Any = dict(estimator=self.estimator, chunk_size=self.chunk_size, moving=self.m_step.moving(params))
        seen = expected_statistics(self.model, tied, ys, weights=weights, key=own, **options)
        here = self._measured(params)
        renewed = Held(
            _map(lambda old, family, s: family.rebase(s, old), here, opened.measured, seen.families),
            seen.elbo - _log_likelihood(here, seen.families),
            seen.weight,
            seen.dropped,
        )
        renewed = jax.tree.map(lambda a, like: a.astype(like.dtype), renewed, done)
        done = jax.tree.map(jnp.add, done, renewed)
        total = jax.tree.map(jnp.add, done, later)
        families = _map(lambda family, old, s: family.rebase(s, old), here, opened.measured, total.families)
        bound = total.rest + _log_likelihood(here, families)
        theta, _, info = self.m_step.update(tied, Statistics(families, bound, total.weight, total.dropped), ())
        theta = select(opened.known | (i == self.blocks - 1), theta, params.theta)
        new = None if params.psi is None else exact_e_step(self.model, Params(theta, psi))
        return Params(theta, new), done, renewed, info

    def _close(self, params: Params, state: Blocks, opened: Blocks, new: Params, held: Held, infos: Info) -> tuple:
        """The end of a pass, of which an update that is not finite undoes all."""
        each: Any = infos.finite  # [blocks]
        finite = jnp.where(opened.known, jnp.all(each), each[-1])
        info = jax.tree.map(lambda a: jnp.where(opened.known, a[0], a[-1]), infos)._replace(finite=finite)
        after = Blocks(held, opened.measured, opened.known | (info.weight > 0))
        new, after = select(finite, (new, after), (params, state))
        return new, after, info

    def _measured(self, params: Params) -> PyTree:
        return widened(self.m_step.moving(params))

    def _check(self, state: Any) -> None:
        count = len(state.held.rest) if isinstance(state, Blocks) else None
        if count != self.blocks:
            raise ValueError(
                f"state: got {type(state).__name__ if count is None else f'{count} blocks'} for a rule of "
                f"{self.blocks} blocks; use the state of this rule's init"
            )


def _log_likelihood(families: PyTree, statistics: PyTree) -> jax.Array | float:
    """Σ E_q ln f of the families, nats, but for what is free of their parameters."""
    leaves, treedef = flatten_moving(families)
    pairs = zip(leaves, treedef.flatten_up_to(statistics), strict=True)
    return sum((family.log_likelihood(s) for family, s in pairs if family is not None), jnp.zeros(()))


def _map(f: Any, families: PyTree, *others: PyTree) -> PyTree:
    """f of every family, and of what stands in its place in the others; None elsewhere."""
    leaves, treedef = flatten_moving(families)
    rows = zip(leaves, *map(treedef.flatten_up_to, others), strict=True)
    return treedef.unflatten([None if row[0] is None else f(*row) for row in rows])


def _nothing(held: Held) -> Held:
    return jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), held)


@partial(jax.jit, static_argnums=0)
def _open(step: _Incremental, *args: Any) -> tuple:
    return step._open(*args)


@partial(jax.jit, static_argnums=0)
def _renew(step: _Incremental, *args: Any) -> tuple:
    return step._renew(*args)


@partial(jax.jit, static_argnums=0)
def _close(step: _Incremental, *args: Any) -> tuple:
    return step._close(*args)
