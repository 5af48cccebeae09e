"""hmmlearn in its faster mode, "scaling": EM iterations, and its compiled forward and backward passes."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from . import Contender

if TYPE_CHECKING:
    from ..problems import Lengths, Sequences

MODULE = "hmmlearn"
INSTALL = "pip install hmmlearn"


def hmm(data: "Sequences") -> list[Contender]:
    """One iteration of `fit`, which checks its input each time."""
    import hmmlearn.hmm

    states = len(data.initial)
    options = dict(n_components=states, n_iter=1, tol=-np.inf, init_params="", implementation="scaling")
    words = data.ys.ndim == 2
    flat = data.ys.reshape(-1, 1) if words else data.ys.reshape(-1, data.ys.shape[-1]).astype(np.float64)
    lengths = [data.ys.shape[1]] * len(data.ys)

    def start():
        if words:
            model = hmmlearn.hmm.CategoricalHMM(**options, n_features=data.emission[0].shape[1])
            model.emissionprob_ = data.emission[0]
        else:
            none = dict(covars_prior=0, covars_weight=0, means_weight=0, min_covar=0)
            model = hmmlearn.hmm.GaussianHMM(**options, **none, covariance_type="diag")
            model.means_, model.covars_ = data.emission
        model.startprob_, model.transmat_ = data.initial, data.transition
        return model

    def advance(model, count):
        for _ in range(count):
            model.monitor_._reset()
            model.fit(flat, lengths)

    def answer():
        model = start()
        advance(model, data.steps)
        if words:
            emission = (model.emissionprob_,)
        else:
            emission = model.means_, np.stack([np.diagonal(c) for c in model.covars_])
        return data.answer(model.score(flat, lengths), model.startprob_, model.transmat_, emission)

    moving = start()
    return [Contender("hmmlearn", "float64, scaling", answer, lambda count: advance(moving, count))]


def lengths(data: "Lengths") -> list[Contender]:
    """`fit` of a model of its own on each sequence."""
    from hmmlearn.hmm import CategoricalHMM

    # it warns at each step of MAP-EM, for it looks at ln P without the prior
    logging.getLogger("hmmlearn.base").setLevel(logging.ERROR)
    states, values = data.emission.shape
    priors = dict(startprob_prior=2.0, transmat_prior=2.0, emissionprob_prior=2.0)  # Dirichlet
    options = dict(n_iter=data.steps, tol=-np.inf, init_params="", implementation="scaling", n_features=values)

    def fitted(ys):
        model = CategoricalHMM(states, **priors, **options)
        model.startprob_, model.transmat_, model.emissionprob_ = data.initial, data.transition, data.emission
        return model.fit(ys[:, None])

    def answer():
        models = [fitted(data.ys[i]) for i in data.compared]
        values = [m.score(data.ys[i][:, None]) for m, i in zip(models, data.compared, strict=True)]
        parts = ("startprob_", "transmat_", "emissionprob_")
        return data.answer(values, *([getattr(m, part) for m in models] for part in parts))

    def run(count):
        for _ in range(count):
            for ys in data.ys:
                fitted(ys)

    return [Contender("hmmlearn", "float64, scaling", answer, run)]


def likelihood(data: "Sequences") -> list[Contender]:
    """`forward_scaling` on the emissions' probabilities."""
    from hmmlearn import _hmmc

    probabilities, offset = _scaled(data)

    def forward():
        return _hmmc.forward_scaling(data.initial, data.transition, probabilities)[0]

    def answer():
        return {"ln P": np.asarray(forward() + offset)}

    return [Contender("hmmlearn", "float64, scaling", answer, lambda count: [forward() for _ in range(count)])]


def smoother(data: "Sequences") -> list[Contender]:
    """`forward_scaling`, `backward_scaling` and their product."""
    from hmmlearn import _hmmc

    probabilities, _ = _scaled(data)

    def smooth():
        _, forward, scales = _hmmc.forward_scaling(data.initial, data.transition, probabilities)
        backward = _hmmc.backward_scaling(data.initial, data.transition, probabilities, scales)
        product = forward * backward
        return product / product.sum(1, keepdims=True)

    def answer():
        return {"marginals": smooth()}

    return [Contender("hmmlearn", "float64, scaling", answer, lambda count: [smooth() for _ in range(count)])]


def _scaled(data):
    log_p = data.log_emissions()[0].astype(np.float64)
    top = log_p.max(1, keepdims=True)
    return np.exp(log_p - top), top.sum()


TASKS = {"hmm": hmm, "hmm_words": hmm, "lengths": lengths, "hmm_likelihood": likelihood, "hmm_smoother": smoother}
