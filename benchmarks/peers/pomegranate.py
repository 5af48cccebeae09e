"""pomegranate's GeneralMixtureModel of full Gaussians, in float32."""

from typing import TYPE_CHECKING

import numpy as np

from . import Contender
from .torch_places import Place, places

if TYPE_CHECKING:
    from ..problems import Mixture

MODULE = "pomegranate"
INSTALL = "pip install pomegranate==1.1.2 (first the CPU build of torch 2.13.0)"


def mixture(data: "Mixture") -> list[Contender]:
    """One EM iteration: `summarize` and `from_summaries`, the body of its `fit`."""
    return [_iteration(data, place) for place in places()]


def _iteration(data: "Mixture", place: Place) -> Contender:
    import torch

    ys = torch.from_numpy(data.ys).to(place.device)

    def start():
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel

        # unchecked data: the fastest that it offers
        parts = [Normal(m, c, check_data=False) for m, c in zip(data.means, data.covariances, strict=True)]
        return GeneralMixtureModel(parts, priors=data.weights, check_data=False).to(place.device)

    def advance(model):
        model.summarize(ys)
        model.from_summaries()

    def answer():
        model = start()
        place.repeated(lambda: advance(model))(data.steps)
        parts = model.distributions
        return data.answer(
            float(torch.mean(model.log_probability(ys))),
            model.priors.cpu().numpy(),
            np.stack([d.means.cpu().numpy() for d in parts]),
            np.stack([d.covs.cpu().numpy() for d in parts]),
        )

    moving = start()
    return Contender("pomegranate", f"float32, {place.label}", answer, place.repeated(lambda: advance(moving)))


TASKS = {"mixture": mixture}
