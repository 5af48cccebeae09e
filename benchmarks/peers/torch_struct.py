"""torch-struct: its context-free grammars in the log semiring, with one thread and with two."""

from typing import TYPE_CHECKING

import numpy as np

from . import Contender

if TYPE_CHECKING:
    from ..problems import Forest

MODULE = "torch_struct"
INSTALL = "pip install torch-struct==0.5, and torch==2.13.0 (its CPU build)"


def inside(data: "Forest") -> list[Contender]:
    """ln Z of each sentence, without a gradient."""

    def ask(q, torch):
        with torch.no_grad():
            return {"ln Z": q.partition.numpy()}

    return [_contender(data, ask, threads) for threads in (1, 2)]


def tree_marginals(data: "Forest") -> list[Contender]:
    """ln Z, and marginals by its own backward pass."""

    def ask(q, torch):
        tags, rules, root, _ = q.marginals
        return {
            "ln Z": q.partition.detach().numpy(),
            "marginals": tuple(a.detach().numpy() for a in (root, rules, tags)),
        }

    return [_contender(data, ask, threads) for threads in (1, 2)]


def _contender(data: "Forest", ask, threads: int) -> Contender:
    import torch
    from torch_struct import SentCFG

    count = len(data.tags)
    # it wants the grammar once for each sentence
    root, rules = (torch.from_numpy(np.stack([a] * count)) for a in (data.root, data.rules))
    tags = torch.from_numpy(data.tags)

    def once():
        return ask(SentCFG((tags.clone(), rules.clone(), root.clone())), torch)

    def run(repeats):
        torch.set_num_threads(threads)
        for _ in range(repeats):
            once()

    return Contender("torch-struct", f"{threads} thread{'s' if threads > 1 else ''}", once, run)


TASKS = {"inside": inside, "tree_marginals": tree_marginals}
