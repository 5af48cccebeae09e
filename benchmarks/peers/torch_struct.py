"""torch-struct: its context-free grammars in the log semiring."""

from typing import TYPE_CHECKING

import numpy as np

from . import Contender
from .torch_places import Place, places

if TYPE_CHECKING:
    from ..problems import Forest

MODULE = "torch_struct"
INSTALL = "pip install torch-struct==0.5, and torch==2.13.0 (its CPU build)"


def inside(data: "Forest") -> list[Contender]:
    """ln Z of each sentence, without a gradient."""

    def ask(q, torch):
        with torch.no_grad():
            return {"ln Z": q.partition.cpu().numpy()}

    return [_contender(data, ask, place) for place in places()]


def tree_marginals(data: "Forest") -> list[Contender]:
    """ln Z, and marginals by its own backward pass."""

    def ask(q, torch):
        tags, rules, root, _ = q.marginals
        return {
            "ln Z": q.partition.detach().cpu().numpy(),
            "marginals": tuple(a.detach().cpu().numpy() for a in (root, rules, tags)),
        }

    return [_contender(data, ask, place) for place in places()]


def _contender(data: "Forest", ask, place: Place) -> Contender:
    import torch
    from torch_struct import SentCFG

    count = len(data.tags)
    # it wants the grammar once for each sentence
    root, rules = (torch.from_numpy(np.stack([a] * count)).to(place.device) for a in (data.root, data.rules))
    tags = torch.from_numpy(data.tags).to(place.device)

    def once():
        return ask(SentCFG((tags.clone(), rules.clone(), root.clone())), torch)

    return Contender("torch-struct", place.label, once, place.repeated(once))


TASKS = {"inside": inside, "tree_marginals": tree_marginals}
