"""scikit-learn's GaussianMixture, on float64 and float32 data, and in a loop over data sets in one and two processes."""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from . import Contender

if TYPE_CHECKING:
    from ..problems import Mixture

MODULE = "sklearn"
INSTALL = "pip install scikit-learn"


def mixture(data: "Mixture") -> list[Contender]:
    """One EM iteration: the E and M steps that `fit` calls, without its initialisation, checks and stopping rule."""
    return [_iteration(data, np.float64), _iteration(data, np.float32)]


def _iteration(data: "Mixture", dtype) -> Contender:
    ys = data.ys.astype(dtype)

    def start():
        model = _model(data.weights, data.means, data.covariances, dtype, 1)
        model._initialize(ys, None)  # sets the parameters given; there is nothing to look for
        return model

    def advance(model, steps):
        for _ in range(steps):
            _, log_q = model._e_step(ys)
            model._m_step(ys, log_q)

    def answer():
        model = start()
        advance(model, data.steps)
        return data.answer(model.score(ys), model.weights_, model.means_, model.covariances_)

    moving = start()
    return Contender("scikit-learn", np.dtype(dtype).name, answer, lambda count: advance(moving, count))


def mixtures(data: "Mixture") -> list[Contender]:
    """`fit` on the first `data.subset` data sets, one after the other; its last E step, one more than asked for, included."""
    made = [_loop(data, np.float64, 1)]
    # the machines that this is meant for have two cores at least; float32 too, so that its best is what we compare with
    return [*made, _loop(data, np.float64, 2), _loop(data, np.float32, 2)]


def _loop(data: "Mixture", dtype, processes: int) -> Contender:
    # spawn: a fork of a process with threads, as jax has, can hang
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _one_thread) if processes > 1 else None
    starts = [data.weights, data.means, data.covariances]
    ys, *starts = [a[: data.subset].astype(dtype) for a in (data.ys, *starts)]
    parts = list(zip(*(np.array_split(a, processes) for a in (ys, *starts)), strict=True))

    def solve():
        results = [_fit_all(*parts[0], data.steps)] if pool is None else list(pool.map(_fit_all, *zip(*[(*p, data.steps) for p in parts], strict=True)))
        return [np.concatenate(column) for column in zip(*results, strict=True)]

    def run(count):
        for _ in range(count):
            solve()

    variant = f"{np.dtype(dtype).name}, {processes} process{'es' if processes > 1 else ''}"
    close = (lambda: None) if pool is None else pool.shutdown
    return Contender("scikit-learn", variant, lambda: data.answer(*solve()), run, None, len(ys) / len(data.ys), close)


def _fit_all(ys, weights, means, covariances, steps) -> tuple[np.ndarray, ...]:
    """Fits each data set; the mean log-likelihoods and the parameters."""
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: it is told not to stop
        for y, *start in zip(ys, weights, means, covariances, strict=True):
            model = _model(*start, y.dtype, steps).fit(y)
            results.append((model.score(y), model.weights_, model.means_, model.covariances_))
    return tuple(np.stack(column) for column in zip(*results, strict=True))


def _model(weights, means, covariances, dtype, steps):
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(
        means.shape[0],
        tol=0,
        reg_covar=0,
        max_iter=steps,
        weights_init=(weights / np.sum(weights)).astype(dtype),
        means_init=means.astype(dtype),
        precisions_init=np.linalg.inv(covariances.astype(np.float64)).astype(dtype),
    )


def _one_thread() -> None:
    """Two processes with two threads each would get in each other's way."""
    import sklearn.mixture  # noqa: F401  # its libraries must be loaded before they can be limited
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


TASKS = {"mixture": mixture, "mixtures": mixtures}
