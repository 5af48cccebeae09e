"""Discrete posteriors to test on: a new structure is one row, and `test_structures.py` does the rest."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from elbo import LOG_ZERO
from elbo.posteriors import BernoulliPosterior, CategoricalPosterior

from . import alignments, chains, segmentations, trees
from .enumeration import Values
from .problems import normal


class Row(NamedTuple):
    """A structure: data of one shape, with NaN in their padding, and small ones of other shapes."""

    make: Callable[..., Any]  # (seed, *size) -> posterior
    sizes: list[tuple]  # possible ones, to stand beside each other; the last is the one that is cut
    values: Callable[[Any], Values]
    impossible: list
    wrong: list  # no numbers
    smallest: list  # posteriors of other shapes
    frames: tuple[str, ...] = ()  # which potentials have an axis of frames, the leading one
    indicate: str = "path"  # the method that makes an indicator of what `best` finds
    nan_everywhere: bool = True  # whether one NaN leaves no number in z; otherwise there are some
    more: Callable[..., tuple] = lambda q, key: ((), ())  # other probabilities and lists that the posterior offers

    def bare(self, q):
        """Without padding."""
        if not self.frames:
            return q
        extra = len(getattr(q, self.frames[-1])) - int(q.length)
        return replace(q, **{name: getattr(q, name)[: len(getattr(q, name)) - extra] for name in self.frames})


def chain(homogeneous: bool) -> Row:
    make = lambda *a, **options: chains.random_chain(*a, homogeneous=homogeneous, **options)
    q = make(5, 4, 3, length=3)
    return Row(
        lambda seed, length: make(seed, 4, 3, length=length),
        [(1,), (2,), (4,), (3,)],
        chains.values,
        chains.impossible(q),
        chains.wrong(q),
        [make(1, *shape) for shape in [(1, 1), (1, 3), (4, 1)]],
        ("states",) if homogeneous else ("transition", "states"),
        more=lambda q, key: ((q.relaxed(key, 0.5), jnp.exp(q.filtered()[2])), ()),
    )


def semi_markov(by_frame: bool) -> Row:
    make = lambda *a, **options: segmentations.random_semi_markov(*a, by_frame=by_frame, **options)
    twos = make(5, 4, 2, 3, length=3)
    twos = replace(twos, durations=twos.durations.at[..., 2].set(LOG_ZERO))
    return Row(
        lambda seed, length: make(seed, 4, 2, 3, length=length),
        [(1,), (2,), (4,), (3,)],
        segmentations.values,
        segmentations.impossible(twos),
        segmentations.wrong(twos),
        [make(1, *shape) for shape in [(1, 1, 1), (4, 1, 2), (2, 2, 5)]],
        ("durations", "states") if by_frame else ("states",),
        nan_everywhere=False,
    )


def tree() -> Row:
    three = trees.random_tree(3, 4, 2, 2, length=3, single=True)
    return Row(
        lambda seed, length: trees.random_tree(seed, 4, 2, 2, length=length, single=True),
        [(1,), (2,), (4,), (3,)],
        trees.values,
        trees.impossible(three),
        trees.wrong(three),
        [trees.random_tree(1, n, 1, 1, single=n == 1) for n in (1, 2)],
        ("tags",),
        "parse",
        more=lambda q, key: ((q.spans(),), (q.consensus(),)),
    )


def alignment() -> Row:
    make = alignments.random_alignment
    return Row(
        make,
        [(5, 2, 0), (5, 2, 1), (3, 2, 1), (3, 1, 0), (5, 0, 0), (1, 1, 0), (4, 2, 0)],
        alignments.values,
        [*alignments.impossible(make(0, 4, 2)), make(1, 1, 2), make(2, 2, 2, True)],
        alignments.wrong(make(0, 4, 2)),
        [make(1, 1, 0, labels=0, frames=1), make(1, 1, 1, labels=1, frames=1)],
        ("states",),
    )


def categorical(*shape: int) -> Row:
    def values(q):
        *group, size = q.logits.shape
        rows = product(np.eye(size), repeat=q.logits.size // size)
        return Values(None, [np.array([np.reshape(r, (*group, size)) for r in rows])])

    make = lambda seed, *shape: CategoricalPosterior(2 * normal(seed, *shape))
    none = [
        jnp.full(shape, -jnp.inf),
        jnp.full(shape, LOG_ZERO),
        make(0, *shape).logits.at[(0,) * (len(shape) - 1)].set(LOG_ZERO),
    ]
    impossible = [CategoricalPosterior(logits) for logits in none]
    wrong = [CategoricalPosterior(make(0, *shape).logits.at[..., 1].set(jnp.nan))]
    return Row(make, [shape, shape], values, impossible, wrong, [make(1, *shape[:-1], 1)])


def bernoulli(*shape: int) -> Row:
    def values(q):
        bits = product([0.0, 1.0], repeat=q.logits.size)
        return Values(None, [np.array(list(bits)).reshape(-1, *q.logits.shape)])

    make = lambda seed, *shape: BernoulliPosterior(2 * normal(seed, *shape))
    wrong = [BernoulliPosterior(make(0, *shape).logits.at[..., 1].set(jnp.nan))]
    return Row(make, [shape, shape], values, [], wrong, [make(1, 1)], nan_everywhere=False)


# made when asked for, in the precision of who asks
TABLE: dict[str, Callable[[], Row]] = {
    "chain": lambda: chain(True),
    "chain of steps": lambda: chain(False),
    "semi-Markov": lambda: semi_markov(False),
    "semi-Markov by frame": lambda: semi_markov(True),
    "tree": tree,
    "alignment": alignment,
    "categorical": lambda: categorical(4),
    "group": lambda: categorical(2, 2, 3),
    "bits": lambda: bernoulli(5),
    "grid of bits": lambda: bernoulli(2, 2),
}
