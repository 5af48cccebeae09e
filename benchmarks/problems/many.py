"""Many data sets of different sizes in few programs: mixtures and HMMs by elbo.stack and vmap, and optim.select."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.models import hmm, mixture
from elbo.models.families import Categorical, MultivariateNormal, PseudoData

from .. import measure
from ..peers import Contender, reference
from .problem import Answer, Problem, Target

STARTS = 4
"""Of each fit in the comparison of models."""


class Sizes(NamedTuple):
    """Mixtures of data sets of different sizes, smallest first, and where EM starts; float32.

    Attributes:
      ys: a list of [N_i, D].
      weights, means, covariances: [sets, K], [sets, K, D], [sets, K, D, D].
      steps: at most.
      tolerance: as in `optim.run`.
      compared: which sets are compared, and timed for peers that take them one by one.
      buckets: of like sizes, each a program.
      at_once: of a bucket, how many are fitted at a time.
    """

    ys: list[np.ndarray]
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    steps: int
    tolerance: float
    compared: np.ndarray
    buckets: int
    at_once: int

    def answer(self, log_likelihood, weights, means, covariances) -> Answer:
        """Of the sets compared: each one's own ln P a datum, and that of its parameters as the judge sees it."""
        triples = zip(weights, means, covariances, strict=True)
        judged = [reference.mixture_log_likelihood(self.ys[i], *p) for i, p in zip(self.compared, triples, strict=True)]
        return {"log-likelihood": np.asarray(log_likelihood), "parameters' log-likelihood": np.array(judged)}


def make_sizes(
    *, sets: int, smallest: int, largest: int, size: int, components: int, steps: int, compared: int, **cut: int
) -> Sizes:
    """Gaussians about 6 standard deviations apart; EM starts near their centres."""
    rng = np.random.default_rng(0)
    counts = np.linspace(smallest, largest, sets).astype(int)
    centres = rng.standard_normal((sets, components, size)) * 4 / np.sqrt(size)
    ys = [
        (c[rng.integers(components, size=n)] + rng.standard_normal((n, size))).astype(np.float32)
        for n, c in zip(counts, centres, strict=True)
    ]
    covariances = np.stack([np.tile(np.cov(y.T), (components, 1, 1)) for y in ys]).astype(np.float32)
    means = (centres + 0.5 * rng.standard_normal(centres.shape)).astype(np.float32)
    weights = np.full((sets, components), 1 / components, np.float32)
    return Sizes(ys, weights, means, covariances, steps, 1e-5, np.linspace(0, sets - 1, compared).astype(int), **cut)


def sizes_reference(data: Sizes) -> Answer:
    """Each of the sets compared by itself, float64 NumPy, stopped by the rule of `optim.run`."""
    ends = []
    for i in data.compared:
        params, last = (data.weights[i], data.means[i], data.covariances[i]), -np.inf
        for _ in range(data.steps):
            value = reference.mixture_log_likelihood(data.ys[i], *params)
            params = reference.mixture_em(data.ys[i], *params, 1)
            if abs(value - last) <= data.tolerance * max(1, abs(value)):
                break
            last = value
        ends.append((reference.mixture_log_likelihood(data.ys[i], *params), *params))
    return data.answer(*map(np.stack, zip(*ends, strict=True)))


class Lengths(NamedTuple):
    """HMMs of words, each of one sequence, shortest first, and where EM starts, with Dirichlet(2) on every row.

    Attributes:
      ys: a list of int32 [T_i].
      initial, transition, emission: probabilities, [K], [K, K], [K, V]; all sets start from them.
      steps: EM iterations.
      compared: which sets are compared.
      buckets: of like lengths, each a program.
      at_once: of a bucket, how many are fitted at a time.
    """

    ys: list[np.ndarray]
    initial: np.ndarray
    transition: np.ndarray
    emission: np.ndarray
    steps: int
    compared: np.ndarray
    buckets: int
    at_once: int

    def answer(self, log_likelihood, initial, transition, emission) -> Answer:
        """Of the sets compared: each one's own ln P, and that of its parameters as the judge sees it."""
        triples = zip(initial, transition, emission, strict=True)
        judged = [
            reference.hmm_log_likelihood(self.ys[i][None], a, b, c)
            for i, (a, b, c) in zip(self.compared, triples, strict=True)
        ]
        return {"log-likelihood": np.asarray(log_likelihood), "parameters' log-likelihood": np.array(judged)}


def make_lengths(
    *, sets: int, longest: int, states: int, values: int, steps: int, compared: int, **cut: int
) -> Lengths:
    """Sticky chains of T = 1 to the longest, each with laws of its own."""
    rng = np.random.default_rng(0)
    ys = []
    for length in np.linspace(1, longest, sets).astype(int):
        laws = rng.dirichlet(np.full(values, 0.3), size=states)
        state, drawn = 0, []
        for u, v in rng.random((length, 2)):
            state = rng.integers(states) if u < 0.1 else state
            drawn.append(int(np.sum(np.cumsum(laws[state])[:-1] < v)))
        ys.append(np.array(drawn, np.int32))
    start = 0.8 * np.eye(states) + 0.2 / states
    emission = rng.dirichlet(np.full(values, 5.0), size=states)
    chosen = np.linspace(0, sets - 1, compared).astype(int)
    return Lengths(ys, np.full(states, 1 / states), start, emission, steps, chosen, **cut)


def lengths_reference(data: Lengths) -> Answer:
    """Each of the sets compared by itself, float64 NumPy."""
    ends = []
    for i in data.compared:
        ys, initial, transition, emission = data.ys[i][None], data.initial, data.transition, data.emission
        for _ in range(data.steps):
            log_p = reference.hmm_log_emissions(ys, emission)
            _, states, counts = reference.hmm_passes(log_p, initial, transition)
            table = np.zeros(emission.T.shape)
            np.add.at(table, ys.ravel(), states[0])
            laws = (1 + states[0, 0], 1 + counts, 1 + table.T)  # Dirichlet(2): a count of 1 more of each
            initial, transition, emission = (law / law.sum(-1, keepdims=True) for law in laws)
        ends.append((reference.hmm_log_likelihood(ys, initial, transition, emission), initial, transition, emission))
    return data.answer(*map(np.stack, zip(*ends, strict=True)))


class Choice(NamedTuple):
    """Data of which the number of components is to be found.

    Attributes:
      ys: [N, D] float32.
      part: [N], the fold of each datum, as `optim.select` draws it from the key of seed 0.
      folds, largest, steps: how many folds, the largest number of components, steps at most.
      tolerance: as in `optim.run`.
      truth: parameters that the data were drawn from: weights, means, covariances.
    """

    ys: np.ndarray
    part: np.ndarray
    folds: int
    largest: int
    steps: int
    tolerance: float
    truth: tuple[np.ndarray, ...]

    def answer(self, held_out: Sequence[float], bic: Sequence[float]) -> Answer:
        """The number of components by BIC, and at the true number the mean ln P held out: there all find one end."""
        true = len(self.truth[0])
        return {"held out": np.array(held_out[true - 1]), "components": np.array(1.0 + np.argmin(bic))}


def make_choice(data: int, size: int, components: int, largest: int, folds: int, steps: int) -> Choice:
    """Gaussians well apart."""
    rng = np.random.default_rng(1)
    means = rng.standard_normal((components, size)) * 8 / np.sqrt(size)
    ys = (means[rng.integers(components, size=data)] + rng.standard_normal((data, size))).astype(np.float32)
    part = jax.random.permutation(jax.random.split(jax.random.key(0))[1], jnp.arange(data) % folds)
    truth = np.full(components, 1 / components), means, np.tile(np.eye(size), (components, 1, 1))
    return Choice(ys, np.asarray(part), folds, largest, steps, 1e-5, truth)


def choice_reference(data: Choice) -> Answer:
    """EM in float64 from the truth, without each fold; the true number."""
    values = np.empty(len(data.ys))
    for i in range(data.folds):
        out = data.part == i
        params = reference.mixture_em(data.ys[~out], *data.truth, 50)
        values[out] = reference._log_sum_exp(reference.mixture_log_joint(data.ys[out].astype(np.float64), *params))
    true = len(data.truth[0])
    return data.answer([values.mean()] * true, np.arange(true)[::-1])


def in_buckets(
    count: int, at_once: int, parts: list[np.ndarray], fit: Callable, *starts: Any
) -> tuple[list[measure.Compiled], Callable[[], list]]:
    """Fits parts, smallest first, in so many programs, each of parts of like size, which are padded to their largest.

    `fit(padded, *starts)` of one part and its rows of `starts` is mapped over each bucket, `at_once` of them at a time:
    that bounds the memory, and a loop that ends with the last of few fits ends earlier than with the last of many.
    """

    def mapped(*args):
        return jax.lax.map(lambda one: fit(*one), args, batch_size=at_once)

    programs = []
    for chosen in np.array_split(np.arange(len(parts)), count):
        args = (elbo.stack([parts[i] for i in chosen]), *jax.tree.map(lambda a, chosen=chosen: a[chosen], starts))
        programs.append((measure.compile_program(jax.jit(mapped), *args), args))

    def solve():
        return [compiled.call(*args) for compiled, args in programs]

    return [compiled for compiled, _ in programs], solve


def _contenders(data: Sizes | Lengths, fit: Callable, *starts: Any) -> list[Contender]:
    """Ours in buckets, few at a time; and all in one program."""

    def contender(buckets, at_once, variant):
        compiled, solve = in_buckets(buckets, at_once, data.ys, fit, *starts)

        def answer():
            return data.answer(*(np.concatenate(a)[data.compared] for a in zip(*solve(), strict=True)))

        return _contender(variant, compiled, solve, answer)

    few = contender(data.buckets, data.at_once, f"{data.buckets} buckets, {data.at_once} at a time")
    return [few, *([contender(1, len(data.ys), "one program")] if data.buckets > 1 else [])]


def _contender(variant: str, compiled: list[measure.Compiled], solve: Callable, answer: Callable) -> Contender:
    def run(count):
        for _ in range(count):
            out = solve()
        jax.block_until_ready(out)

    together = measure.Compiled(
        solve,
        sum(c.seconds for c in compiled),
        *(None if None in (parts := [getattr(c, n) for c in compiled]) else sum(parts) for n in ("flops", "bytes")),
        None if None in (most := [c.temporary for c in compiled]) else max(most),
    )
    return Contender("elbo", variant, answer, run, together)


def our_sizes(data: Sizes) -> list[Contender]:
    """`vmap` of `optim.run`, in buckets of like sizes or in one."""
    components = data.weights.shape[-1]
    model = mixture.model(components)
    rule = optim.em_step(model)

    def fit(padded, weights, means, covariances):
        normal = MultivariateNormal.create(means, covariances, floor=1e-4)
        start = elbo.Params.tied(mixture.Theta(Categorical.create(weights), normal))
        used = padded.mask().astype(jnp.float32)
        ended = optim.run(rule, start, padded.values, weights=used, steps=data.steps, tolerance=data.tolerance)
        theta = ended.params.theta
        parts = theta.weights.probabilities(), theta.components.mean, theta.components.covariance()
        return ended.final.elbo, *parts

    return _contenders(data, fit, data.weights, data.means, data.covariances)


def our_lengths(data: Lengths) -> list[Contender]:
    """`vmap` of `optim.run`, in buckets of like lengths or in one."""
    start = hmm.Theta(*(Categorical.create(jnp.asarray(a, jnp.float32)) for a in data[1:4]))
    even = jax.tree.map(jnp.zeros_like, start)  # logits
    prior = hmm.Theta(*(PseudoData(family, float(family.logits.shape[-1])) for family in even))
    model = hmm.model(len(data.initial))
    rule, params = optim.em_step(model, prior=prior), elbo.Params.tied(start)

    def fit(padded):
        sequence = jax.tree.map(lambda a: a[None], padded)
        ended = optim.run(rule, params, sequence, steps=data.steps)
        theta = ended.params.theta
        return ended.final.elbo, *(family.probabilities() for family in theta)

    return _contenders(data, fit)


def our_choice(data: Choice) -> Contender:
    """`optim.select`: two programs a number of components."""
    ys, key = jnp.asarray(data.ys), jax.random.key(0)

    def candidate(k):
        model = mixture.model(k)
        return optim.Candidate(
            optim.em_step(model), lambda key, ys, weights: mixture.init(key, ys, k, weights=weights), model
        )

    candidates = {k: candidate(k) for k in range(1, data.largest + 1)}
    options = dict(restarts=STARTS, steps=data.steps, tolerance=data.tolerance, folds=data.folds)

    def solve():
        return optim.select(candidates, ys, key, **options)

    begin = time.perf_counter()
    solve()
    seconds = time.perf_counter() - begin  # with one run: the compilation is most of it

    def answer():
        rows = solve().rows
        return data.answer([row.held_out for row in rows], [row.bic for row in rows])

    return _contender(
        "select", [measure.Compiled(solve, seconds, None, None, None)], lambda: [solve().rows[0].steps], answer
    )


MANY = (
    Problem(
        name="gmm-sizes",
        description="1,000 data sets of N = 50 to 1,000: Gaussian mixtures, full covariance, D=2 K=3, each to its own "
        "tolerance (peers: every tenth of them, times 10)",
        unit="all the fits",
        task="sizes",
        make=make_sizes,
        sizes=dict(
            sets=1000, smallest=50, largest=1000, size=2, components=3, steps=200, compared=100, buckets=4, at_once=10
        ),
        tiny=dict(sets=8, smallest=40, largest=80, size=2, components=2, steps=50, compared=4, buckets=2, at_once=2),
        ours=our_sizes,
        reference=sizes_reference,
        tolerance={"log-likelihood": 1e-3, "parameters' log-likelihood": 1e-3},
        flops=lambda data: 4.0 * sum(map(len, data.ys)) * data.weights.shape[-1] * data.means.shape[-1] ** 2,
        counted="E step 2NKD² + M step 2NKD², of one iteration",
        peers=("scikit-learn",),
    ),
    Problem(
        name="hmm-lengths",
        description="200 HMMs, each of one sequence of T = 1 to 2,000, K=3, 16 values, Dirichlet(2), 10 EM iterations",
        unit="all the fits",
        task="lengths",
        make=make_lengths,
        sizes=dict(sets=200, longest=2000, states=3, values=16, steps=10, compared=20, buckets=4, at_once=50),
        tiny=dict(sets=8, longest=20, states=2, values=4, steps=3, compared=8, buckets=1, at_once=4),
        ours=our_lengths,
        reference=lengths_reference,
        tolerance={"log-likelihood": 1e-4, "parameters' log-likelihood": 1e-4},
        flops=lambda data: data.steps * sum(map(len, data.ys)) * 6.0 * len(data.initial) ** 2,
        counted="three products with the transitions a frame",
        peers=("hmmlearn",),
    ),
    Problem(
        name="select",
        description="Gaussian mixtures of 1 to 8 components, N=2,000 D=4, on all data and without each of 5 folds, 4 "
        "starts each (ours: the best 2 after 10 steps go on)",
        unit="the comparison",
        task="choice",
        make=make_choice,
        sizes=dict(data=2000, size=4, components=4, largest=8, folds=5, steps=200),
        tiny=dict(data=120, size=2, components=2, largest=2, folds=2, steps=30),
        ours=our_choice,
        reference=choice_reference,
        tolerance={"held out": 1e-3, "components": 0.0},
        flops=lambda data: 4.0 * data.folds * data.ys.size * data.ys.shape[1] * sum(range(1, data.largest + 1)),
        counted="E step 2NKD² + M step 2NKD², of one iteration of every fit",
        peers=("scikit-learn",),
        targets=(Target("faster than scikit-learn in two processes", 1, ("scikit-learn", "2 processes")),),
    ),
)
