"""EM of Gaussian mixtures: one large, one wide, a thousand small ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import elbo
from elbo import optim
from elbo.models import mixture
from elbo.models.families import Categorical, MultivariateNormal

from .. import measure
from ..peers import Contender, reference
from .problem import Answer, Problem, Target


class Mixture(NamedTuple):
    """Data of one mixture, or of many (leading axis), and where EM starts; float32.

    Attributes:
      ys: [*sets, N, D].
      weights, means, covariances: [*sets, K], [*sets, K, D], [*sets, K, D, D].
      steps: EM iterations before the answers are compared; of the many: also what is timed.
      subset: how many of the sets are compared, and timed for peers that take them one by one.
    """

    ys: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    steps: int
    subset: int

    def answer(self, log_likelihood, weights, means, covariances) -> Answer:
        """What a contender says after `steps`: its log-likelihood, and that of its parameters as the judge sees it."""
        own, *params = (np.asarray(a)[self.compared] for a in (log_likelihood, weights, means, covariances))
        judged = reference.mixture_log_likelihood(self.ys[self.compared], *params)
        return {"log-likelihood": own, "parameters' log-likelihood": judged}

    @property
    def compared(self) -> Any:
        """The index of what is compared: everything, or the first sets."""
        return ... if self.ys.ndim == 2 else slice(self.subset)


def make_mixture(sets: int | None, data: int, size: int, components: int, steps: int, subset: int = 0) -> Mixture:
    """Gaussians about 6 standard deviations apart; EM starts near their centres, with the covariance of all data."""
    rng = np.random.default_rng(0)

    def one():
        centres = rng.standard_normal((components, size)) * 4 / np.sqrt(size)
        roots = np.eye(size) + 0.5 * rng.standard_normal((components, size, size)) / np.sqrt(size)
        which = rng.integers(components, size=data)
        ys = rng.standard_normal((data, size))
        for k in range(components):
            ys[which == k] = ys[which == k] @ roots[k] + centres[k]
        ys = ys.astype(np.float32)
        # not from data points: one far out keeps itself and nothing else, and its covariance is singular
        means = (centres + 0.5 * rng.standard_normal(centres.shape)).astype(np.float32)
        covariance = np.cov(ys.T).reshape(size, size).astype(np.float32)
        weights = np.full(components, 1 / components, np.float32)
        return ys, weights, means, np.tile(covariance, (components, 1, 1))

    if sets is None:
        return Mixture(*one(), steps, subset)
    return Mixture(*[np.stack(a) for a in zip(*[one() for _ in range(sets)], strict=True)], steps, subset)


def mixture_reference(data: Mixture) -> Answer:
    """EM in float64 NumPy."""
    ys, *start = (a[data.compared] for a in (data.ys, data.weights, data.means, data.covariances))
    params = reference.mixture_em(ys, *start, data.steps)
    return data.answer(reference.mixture_log_likelihood(ys, *params), *params)


def mixture_flops(data: Mixture) -> float:
    """E step 2 N K D², M step 2 N K D²; for many data sets, times their number and the steps."""
    *sets, count, size = data.ys.shape
    iteration = 4.0 * count * data.weights.shape[-1] * size**2
    return iteration * sets[0] * data.steps if sets else iteration


def _mixture_params(weights, means, covariances) -> elbo.Params:
    # far below the spread of the data: it must not bind, for the peers have none
    normal = MultivariateNormal.create(means, covariances, floor=1e-4)
    theta = mixture.Theta(Categorical.create(weights), normal)
    return elbo.Params.tied(theta)


def _mixture_answer(data: Mixture, log_likelihood, theta: mixture.Theta) -> Answer:
    parts = theta.weights.probabilities(), theta.components.mean, theta.components.covariance()
    return data.answer(log_likelihood, *parts)


def our_mixture(data: Mixture) -> Contender:
    """One update of `em_step`."""
    rule = optim.em_step(mixture.model(data.weights.shape[-1]))
    ys = jnp.asarray(data.ys)
    params = _mixture_params(data.weights, data.means, data.covariances)
    compiled = measure.compile_program(jax.jit(lambda p, y: rule.update(None, p, (), y)), params, ys)

    def answer():
        moving = params
        for _ in range(data.steps):
            moving, _, _ = compiled.call(moving, ys)
        return _mixture_answer(data, compiled.call(moving, ys)[2].elbo, moving.theta)

    return Contender("elbo", "", answer, measure.carried(compiled, (params,), ys), compiled)


def our_mixtures(data: Mixture) -> Contender:
    """`vmap` of `optim.run` over the data sets."""
    model = mixture.model(data.weights.shape[-1])
    rule = optim.em_step(model)
    ys = jnp.asarray(data.ys)
    params = jax.vmap(_mixture_params)(data.weights, data.means, data.covariances)
    solve = jax.jit(jax.vmap(lambda p, y: optim.run(rule, p, y, steps=data.steps)))
    compiled = measure.compile_program(solve, params, ys)

    def answer():
        result = compiled.call(params, ys).params
        log_likelihood = jnp.mean(jax.vmap(elbo.evidence(model))(result, ys), -1)
        return _mixture_answer(data, log_likelihood, result.theta)

    return Contender("elbo", "vmap", answer, measure.repeated(compiled.call, params, ys), compiled)


_MIXTURE = dict(
    make=make_mixture,
    reference=mixture_reference,
    flops=mixture_flops,
    counted="E step 2NKD² + M step 2NKD²",
)
_ONE_MIXTURE = dict(
    **_MIXTURE,
    unit="EM iteration",
    task="mixture",
    ours=our_mixture,
    tolerance={"log-likelihood": 1e-5, "parameters' log-likelihood": 1e-5},
    peers=("scikit-learn", "pomegranate"),
    tiny=dict(sets=None, data=300, size=3, components=2, steps=3),
)

MIXTURES = (
    Problem(
        name="gmm-16",
        description="Gaussian mixture, full covariance, N=100,000 D=16 K=16, one EM iteration",
        sizes=dict(sets=None, data=100_000, size=16, components=16, steps=5),
        targets=(Target("4x the best peer", 4),),
        **_ONE_MIXTURE,
    ),
    Problem(
        name="gmm-64",
        description="Gaussian mixture, full covariance, N=50,000 D=64 K=32, one EM iteration",
        sizes=dict(sets=None, data=50_000, size=64, components=32, steps=5),
        targets=(Target("2x the best peer", 2), Target("55% of the machine's GEMM rate", 0.55, ("gemm",))),
        **_ONE_MIXTURE,
    ),
    Problem(
        name="gmm-many",
        description="1,000 data sets at once: Gaussian mixture, full covariance, N=500 D=2 K=3, 50 EM iterations each "
        "(peers: the first 100 data sets, times 10)",
        unit="all the fits",
        task="mixtures",
        sizes=dict(sets=1000, data=500, size=2, components=3, steps=50, subset=100),
        tiny=dict(sets=6, data=100, size=2, components=2, steps=5, subset=3),
        ours=our_mixtures,
        tolerance={"log-likelihood": 1e-5, "parameters' log-likelihood": 1e-5},
        peers=("scikit-learn",),
        targets=(Target("10x scikit-learn in two processes", 10, ("scikit-learn", "2 processes")),),
        **_MIXTURE,
    ),
)
