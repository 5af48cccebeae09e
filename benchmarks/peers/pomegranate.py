"""pomegranate's GeneralMixtureModel of full Gaussians, in float32 with one torch thread and with two."""

from typing import TYPE_CHECKING

import numpy as np

from . import Contender

if TYPE_CHECKING:
    from ..problems import Mixture

MODULE = "pomegranate"
INSTALL = "pip install pomegranate==1.1.2 (first the CPU build of torch 2.13.0)"


def mixture(data: "Mixture") -> list[Contender]:
    """One EM iteration: `summarize` and `from_summaries`, the body of its `fit`."""
    return [_iteration(data, threads) for threads in (1, 2)]


def _iteration(data: "Mixture", threads: int) -> Contender:
    import torch

    ys = torch.from_numpy(data.ys)

    def start():
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel

        # unchecked data: the fastest that it offers
        parts = [Normal(m, c, check_data=False) for m, c in zip(data.means, data.covariances, strict=True)]
        return GeneralMixtureModel(parts, priors=data.weights, check_data=False)

    def advance(model, steps):
        torch.set_num_threads(threads)
        for _ in range(steps):
            model.summarize(ys)
            model.from_summaries()

    def answer():
        model = start()
        advance(model, data.steps)
        parts = model.distributions
        return data.answer(
            float(torch.mean(model.log_probability(ys))),
            model.priors.numpy(),
            np.stack([d.means.numpy() for d in parts]),
            np.stack([d.covs.numpy() for d in parts]),
        )

    moving = start()
    variant = f"float32, {threads} thread{'s' if threads > 1 else ''}"
    return Contender("pomegranate", variant, answer, lambda count: advance(moving, count))


TASKS = {"mixture": mixture}
