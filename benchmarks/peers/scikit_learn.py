"""scikit-learn's GaussianMixture on float64 and float32 data, and in a loop over data sets in one and two processes."""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from . import Contender, reference

if TYPE_CHECKING:
    from ..problems import Choice, Mixture, Sizes

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
    pool = _pool(processes)
    arrays = [a[: data.subset].astype(dtype) for a in (data.ys, data.weights, data.means, data.covariances)]
    parts = [np.array_split(a, processes) for a in arrays]

    def solve(score=False):
        spread = map if pool is None else pool.map
        results = list(spread(_fit_all, *parts, [data.steps] * processes, [score] * processes))
        return [np.concatenate(column) for column in zip(*results, strict=True)]

    share = len(arrays[0]) / len(data.ys)
    return _of_processes(np.dtype(dtype).name, pool, solve, lambda: data.answer(*solve(score=True)), share)


def _pool(processes: int) -> ProcessPoolExecutor | None:
    # spawn: a fork of a process with threads, as jax has, can hang
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) if processes > 1 else None


def _of_processes(variant: str, pool, solve, answer, share: float = 1) -> Contender:
    def run(count):
        for _ in range(count):
            solve()

    variant += ", 1 process" if pool is None else f", {pool._max_workers} processes"
    return Contender(
        "scikit-learn", variant, answer, run, None, share, (lambda: None) if pool is None else pool.shutdown
    )


def _fit_all(ys, weights, means, covariances, steps, score, tolerance=0.0) -> tuple[np.ndarray, ...]:
    """Fits each data set; the mean log-likelihoods, if wanted (one more E step), and the parameters."""
    import sklearn.mixture  # noqa: F401  # its libraries must be loaded before they can be limited
    from threadpoolctl import threadpool_limits

    results = []
    # one thread a process: on small data sets more of them only get in each other's way
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # that it has not converged: it is told not to stop
        for y, *start in zip(ys, weights, means, covariances, strict=True):
            model = _model(*start, y.dtype, steps, tolerance).fit(y)
            value = model.score(y) if score else np.nan
            results.append((value, model.weights_, model.means_, model.covariances_))
    return tuple(np.stack(column) for column in zip(*results, strict=True))


def sizes(data: "Sizes") -> list[Contender]:
    """`fit` on each of the data sets compared, stopped where ours is: by as small a change of the mean ln P."""
    return [_sizes(data, 1), _sizes(data, 2)]


def _sizes(data: "Sizes", processes: int) -> Contender:
    pool = _pool(processes)
    # its tolerance is absolute, ours is relative
    jobs = [
        ([y], *(a[i][None].astype(np.float64) for a in (data.weights, data.means, data.covariances)), data.steps, tol)
        for i in data.compared
        for y in [data.ys[i].astype(np.float64)]
        for tol in [data.tolerance * max(1.0, abs(reference.mixture_log_likelihood(y, *(a[i] for a in data[1:4]))))]
    ]

    def solve(score=False):
        *columns, tolerances = zip(*jobs, strict=True)
        # parts of 5: the last are the largest
        spread = map if pool is None else partial(pool.map, chunksize=5)
        results = list(spread(_fit_all, *columns, [score] * len(jobs), tolerances))
        return [np.concatenate(column) for column in zip(*results, strict=True)]

    share = len(jobs) / len(data.ys)
    return _of_processes("float64", pool, solve, lambda: data.answer(*solve(score=True)), share)


def choice(data: "Choice") -> list[Contender]:
    """`fit` of each number of components on all data and without each fold, from as many starts by k-means++."""
    return [_choice(data, 1), _choice(data, 2)]


def _choice(data: "Choice", processes: int) -> Contender:
    from ..problems.many import STARTS

    pool = _pool(processes)
    ys = data.ys.astype(np.float64)
    tolerance = data.tolerance * max(1.0, abs(reference.mixture_log_likelihood(ys, *data.truth)))
    # the largest first, so that no process waits for it at the end
    jobs = [(k, fold) for k in range(data.largest, 0, -1) for fold in range(-1, data.folds)]

    def solve():
        used = [data.part != fold for _, fold in jobs]
        columns = [ys[u] for u in used], [ys[~u] for u in used], [k for k, _ in jobs]
        rest = [STARTS] * len(jobs), [data.steps] * len(jobs), [tolerance] * len(jobs)
        return dict(zip(jobs, (map if pool is None else pool.map)(_fit_one, *columns, *rest), strict=True))

    def answer():
        found, counts = solve(), range(1, data.largest + 1)
        held_out = [sum(found[k, fold][0] for fold in range(data.folds)) / len(ys) for k in counts]
        return data.answer(held_out, [found[k, -1][1] for k in counts])

    return _of_processes("float64", pool, solve, answer)


def _fit_one(ys, others, components, starts, steps, tolerance) -> tuple[float, float]:
    """ln P of the others, and BIC, of one fit."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # where it has not converged
        options = dict(tol=tolerance, max_iter=steps, n_init=starts, init_params="k-means++", random_state=0)
        model = GaussianMixture(components, **options).fit(ys)
        return float(np.sum(model.score_samples(others))) if len(others) else 0.0, float(model.bic(ys))


def _model(weights, means, covariances, dtype, steps, tolerance=0.0):
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(
        means.shape[0],
        tol=tolerance,
        reg_covar=0,
        max_iter=steps,
        weights_init=(weights / np.sum(weights)).astype(dtype),
        means_init=means.astype(dtype),
        precisions_init=np.linalg.inv(covariances.astype(np.float64)).astype(dtype),
    )


TASKS = {"mixture": mixture, "mixtures": mixtures, "sizes": sizes, "choice": choice}
