"""scikit-learn's GaussianMixture on float64 and float32 data, and in a loop over data sets in one and two processes."""

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
    # one thread as well: at these shapes two are not always faster, and far slower on a machine that is not quiet
    return [_iteration(data, np.float64), _iteration(data, np.float32), _iteration(data, np.float32, 1)]


def _iteration(data: "Mixture", dtype, threads: int | None = None) -> Contender:
    from threadpoolctl import threadpool_limits

    ys = data.ys.astype(dtype)

    def start():
        model = _model(data.weights, data.means, data.covariances, dtype, 1)
        model._initialize(ys, None)  # sets the parameters given; there is nothing to look for
        return model

    def advance(model, steps):
        with threadpool_limits(threads):
            for _ in range(steps):
                _, log_q = model._e_step(ys)
                model._m_step(ys, log_q)

    def answer():
        model = start()
        advance(model, data.steps)
        return data.answer(model.score(ys), model.weights_, model.means_, model.covariances_)

    moving = start()
    variant = np.dtype(dtype).name + ("" if threads is None else ", 1 thread")
    return Contender("scikit-learn", variant, answer, lambda count: advance(moving, count))


def mixtures(data: "Mixture") -> list[Contender]:
    """`fit` on each of the first `data.subset` data sets, with its last E step, which is one more than asked for."""
    return [_loop(data, np.float64, 1), _loop(data, np.float64, 2), _loop(data, np.float32, 2)]


def _loop(data: "Mixture", dtype, processes: int) -> Contender:
    # spawn: a fork of a process with threads, as jax has, can hang
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) if processes > 1 else None
    arrays = [a[: data.subset].astype(dtype) for a in (data.ys, data.weights, data.means, data.covariances)]
    parts = [np.array_split(a, processes) for a in arrays]

    def solve(score=False):
        spread = map if pool is None else pool.map
        results = list(spread(_fit_all, *parts, [data.steps] * processes, [score] * processes))
        return [np.concatenate(column) for column in zip(*results, strict=True)]

    def run(count):
        for _ in range(count):
            solve()

    variant = f"{np.dtype(dtype).name}, {processes} process{'es' if processes > 1 else ''}"
    close = (lambda: None) if pool is None else pool.shutdown
    share = len(arrays[0]) / len(data.ys)
    return Contender("scikit-learn", variant, lambda: data.answer(*solve(score=True)), run, None, share, close)


def _fit_all(ys, weights, means, covariances, steps, score) -> tuple[np.ndarray, ...]:
    """Fits each data set; the mean log-likelihoods, if wanted (one more E step), and the parameters."""
    import sklearn.mixture  # noqa: F401  # its libraries must be loaded before they can be limited
    from threadpoolctl import threadpool_limits

    results = []
    # one thread a process: on small data sets more of them only get in each other's way
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # that it has not converged: it is told not to stop
        for y, *start in zip(ys, weights, means, covariances, strict=True):
            model = _model(*start, y.dtype, steps).fit(y)
            value = model.score(y) if score else np.nan
            results.append((value, model.weights_, model.means_, model.covariances_))
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


TASKS = {"mixture": mixture, "mixtures": mixtures}
