"""What went wrong in a run, looked for after its end: which step, which part of the parameters, which data.

Compiled loops report counts alone, so that healthy runs pay nothing. Here a step is taken once more, in its parts.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from elbo import Params, elbo
from elbo.extend import PyTree, batch_length
from elbo.numerics import is_feasible

from ._accelerate import _Accelerate
from ._blame import closed_flags, closed_step, gradient_flags, is_closed, measured_leaves, optimizer_step
from ._compose import _Chain, _Masked, _Minibatches, _Repeat, _update, streaming
from ._data import check_weights
from ._e_step import exact_e_step
from ._eg import _EG
from ._em import _EM
from ._incremental import _Incremental
from ._passes import _advance, _measure, add
from ._rule import Rule
from ._run import step_key
from ._source import Batches, Source
from ._trouble import FEW, Place, Trouble
from ._vae import _VAE
from ._vem import _VEM, _MStep


class Part(NamedTuple):
    """Data that are measured at once, with their key, and where each row is from."""

    key: jax.Array | None
    ys: PyTree
    weights: jax.Array | None
    where: Callable[[int], Place]


@dataclass(frozen=True)
class Memory:
    """Data in memory, or a part of a stream."""

    ys: PyTree
    weights: jax.Array | None
    where: Callable[[int], Place] = int

    def update(self, rule: Rule, key, params, state) -> tuple:
        """One update."""
        return rule.update(key, params, state, self.ys, weights=self.weights)

    def parts(self, key: jax.Array | None) -> Iterator[Part]:
        """All at once."""
        yield Part(key, self.ys, self.weights, self.where)

    def minibatches(self, step: _Minibatches, key: jax.Array, params: Params) -> tuple[Any, int, Iterator]:
        """Total weight, how many minibatches, and each: data, weights of the whole it stands for, and places."""
        drawn = step.drawn(key, params, self.ys, self.weights)

        def each():
            for rows, mask, share in zip(drawn.rows, drawn.real, drawn.shares, strict=True):
                if share > 0:
                    batch = jax.tree.map(lambda a, rows=rows: a[rows], self.ys)
                    yield (
                        batch,
                        jnp.where(mask, drawn.weights[rows] / share, 0),
                        lambda i, r=rows: self.where(int(r[i])),
                    )
                else:
                    yield None

        return step.total if step.total is not None else jnp.sum(drawn.weights), len(drawn.shares), each()


@dataclass(frozen=True)
class Stream:
    """Data in batches."""

    source: Source

    def update(self, rule: Rule, key, params, state) -> tuple:
        """One update."""
        return streaming(rule)(key, params, state, self.source)

    def parts(self, key: jax.Array | None) -> Iterator[Part]:
        """A batch each."""
        for i, (ys, weights, _) in enumerate(self.source.parts()):
            own = None if key is None else jax.random.fold_in(key, i)
            yield Part(own, ys, weights, partial(_row, i))

    def minibatches(self, step: _Minibatches, key: jax.Array, params: Params) -> tuple[Any, int, Iterator]:
        """As those of `Memory`."""
        total = self.source.weight()
        drawn, stream, size = self.source.minibatches(key, step.size), self.source.stream, step.size
        order = np.asarray(jax.random.permutation(key, len(stream))) if isinstance(stream, Batches) else None

        def place(i, row):
            if order is None:
                return i, row
            assert isinstance(stream, Batches)
            batch, row = divmod(int(order[i * size + row]), stream.size)
            return batch, row

        each = ((ys, w / share, partial(place, i)) for i, (ys, w, share) in enumerate(drawn.parts))
        return total, drawn.length, each


class Rejected(NamedTuple):
    """Where the first update that was rejected is found.

    Attributes:
      params, state: some steps before it.
      done: steps before these.
      more: steps from these to it.
    """

    params: Params
    state: PyTree
    done: int
    more: int


def look_for(
    rule: Rule,
    key: jax.Array | None,
    first: int,
    bad: Rejected | None,
    end: tuple | None,
    data: Any,
    again: Callable[..., tuple] | None = None,
) -> Trouble | None:
    """What went wrong in a run; None if nothing did.

    Args:
      rule, key, first: of `fit`.
      bad: the first rejected update, if any.
      end: parameters that leave data out, and the key of their step, if they do.
      data: a `Memory` or a `Stream`.
      again: `again(*bad)` takes the steps to it.
    """
    found = Trouble(step=None if bad is None else bad.done + bad.more)
    # what is looked for when the work is done must not cost it, by want of memory, say
    with contextlib.suppress(Exception):
        if bad is not None:
            params, state = again(*bad)[:2] if again is not None and bad.more else bad[:2]
            number = first + bad.done + bad.more
            found = replace(rejected(rule, step_key(key, number), params, state, data), step=found.step)
    with contextlib.suppress(Exception):
        if end is not None:
            found = replace(found, dropped=dropped(rule, end[1], end[0], data))
    return None if found == Trouble() else found


def rejected(rule: Rule, key: jax.Array | None, params: Params, state: PyTree, data: Any) -> Trouble:
    """Why an update is rejected: leaves, what, data of `Trouble`.

    Args:
      rule, key, params, state: of the update.
      data: a `Memory` or a `Stream`.
    """
    step = getattr(rule.init, "owner", None)
    if isinstance(step, _Chain | _Repeat):
        rules = step.rules if isinstance(step, _Chain) else (step.rule,) * step.times
        keys = [None] * len(rules) if key is None else jax.random.split(key, len(rules))
        for i, (each, k) in enumerate(zip(rules, keys, strict=True)):
            own = state[i] if isinstance(step, _Chain) else state
            new, after, info = data.update(each, k, params, own)
            if not info.finite:
                return rejected(each, k, params, own, data)
            params, state = new, state if isinstance(step, _Chain) else after
    elif isinstance(step, _Minibatches):
        assert key is not None
        order_key, step_key = jax.random.split(key)
        total, count, batches = data.minibatches(step, order_key, params)
        for k, batch in zip(jax.random.split(step_key, count), batches, strict=True):
            if batch is None:
                continue
            ys, weights, where = batch
            new, after, info = _update(step.rule, k, params, state, ys, weights, total)
            if not info.finite:
                return rejected(step.rule, k, params, state, Memory(ys, weights, where))
            params, state = new, after
    elif isinstance(step, _Masked | _Accelerate):
        return rejected(step.rule, key, params, state if isinstance(step, _Masked) else state.inner, data)
    elif step is not None:
        return _base(step, key, params, state, data)
    return Trouble()


def _base(step: Any, key, params, state, data) -> Trouble:
    """Of a rule that is not made of others: measured a part at a time, and then moved."""
    if isinstance(step, _Incremental):  # its blocks are measured by EM's E step
        step, state = _EM(step.model, step.m_step, step.chunk_size, step.estimator), ()
    phases: list = [(step, key)] if isinstance(step, _EM | _EG | _VAE) else []
    if isinstance(step, _VEM):
        keys = (None, None) if key is None else jax.random.split(key)
        phases = [(step, keys[0]), (_MStep(step), keys[1])]
    for phase, own in phases:
        closed, total = is_closed(phase), None
        for piece in data.parts(own):
            measured = _measure(phase, piece.key, params, state, piece.ys, piece.weights, None)
            if leaves := measured_leaves(phase, params, measured):
                flags = closed_flags if closed else gradient_flags
                rows = _few(flags(phase, piece.key, params, piece.ys, _weights(piece, params)))
                places = tuple(piece.where(row) for row in rows)
                return Trouble(leaves=leaves, what="statistics" if closed else "gradient", data=places)
            total = measured if total is None else add(total, measured)
        leaves = measured_leaves(phase, params, total)
        if leaves:
            return Trouble(leaves=leaves, what="statistics" if closed else "gradient")
        new, after, info = _advance(phase, params, state, total)
        if not info.finite:
            made = closed_step(phase, params, state, total) if closed else optimizer_step(phase, params, state, total)
            return Trouble(leaves=made, what="m step" if closed else "optimizer")
        params, state = new, after
    return Trouble()


def dropped(rule: Rule, key: jax.Array | None, params: Params, data: Any) -> tuple[Place, ...]:
    """The first few data that an update leaves out."""
    step, found = _innermost(rule), []
    if step is None:
        return ()
    ascent = getattr(step, "ascent", step)
    if not isinstance(step, _VAE | _VEM):
        params = Params(params.theta, exact_e_step(ascent.model, params))
    for piece in data.parts(key):
        weights = _weights(piece, params)
        bounds = elbo(ascent.model, estimator=ascent.estimator)(params, piece.ys, piece.key)
        good = is_feasible(bounds) & jax.vmap(ascent.model.usable)(piece.ys) & jnp.isfinite(weights) & (weights > 0)
        found += [piece.where(row) for row in _few(~good & (weights != 0))]
        if len(found) >= FEW:
            break
    return tuple(found[:FEW])


def _innermost(rule: Rule) -> Any:
    """The first of the rules that a rule is made of."""
    step = getattr(rule.init, "owner", None)
    if isinstance(step, _Chain):
        return _innermost(step.rules[0])
    if isinstance(step, _Repeat | _Minibatches | _Masked | _Accelerate):
        return _innermost(step.rule)
    return step if isinstance(step, _EM | _EG | _VAE | _VEM | _Incremental) else None


def _row(batch: int, row: int) -> Place:
    return batch, row


def _weights(piece: Part, params: Params) -> jax.Array:
    return check_weights(piece.weights, batch_length(piece.ys), params)


def _few(flags: jax.Array) -> list[int]:
    return np.flatnonzero(np.asarray(flags))[:FEW].tolist()
