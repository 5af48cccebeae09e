"""What people read of a fit: estimates with their errors, and how fast it goes."""

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from elbo.extend import PyTree

if TYPE_CHECKING:
    from ._information import Uncertainty


def summary(information: "Uncertainty", *, level: float = 0.95) -> str:
    """A table: each parameter, its estimate, standard error and confidence interval, and how much of it is missing.

    The interval is estimate ± z · error, by the normal approximation. Of a covariance, what is above the diagonal is
    left out. A parameter at the end of its range, or that the data do not identify, is said to be so.

    Args:
      information: of `information`, not under jit or vmap.
      level: of the intervals, in (0, 1).

    >>> from elbo import optim
    >>> from elbo.models import mixture
    >>> ys = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model, params = mixture.model(1), mixture.init(jax.random.key(0), ys, 1)
    >>> print(summary(optim.information(model, params, ys)))
    parameter                      estimate      error   95% interval          missing
    weights.probabilities[0]              1            held
    components.covariance[0,0,0]       1.25     0.8839   -0.4824 to 2.982            0
    components.mean[0,0]                1.5      0.559   0.4043 to 2.596             0
    """
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a number between 0 and 1, such as 0.95")
    z = NormalDist().inv_cdf((1 + level) / 2)
    columns = (information.estimates, information.errors, information.missing, information.bound)
    rows = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(column)]) for column in columns]
    called = names(information.estimates)
    width = max(len(name) for name in called)
    lines = [f"{'parameter':{width}}  {'estimate':>9}  {'error':>9}   {f'{level:.0%} interval':<20}  {'missing':>7}"]
    for name, estimate, error, missing, bound in zip(called, *rows, strict=True):
        if _is_repeated(name):
            continue
        head = f"{name:{width}}  {estimate:9.4g}"
        if bound or not math.isfinite(error):
            lines.append(f"{head}            {'held' if bound else 'not identified'}")
            continue
        interval = f"{estimate - z * error:.4g} to {estimate + z * error:.4g}"
        lines.append(f"{head}  {error:9.4g}   {interval:<20}  {missing:7.2g}")
    return "\n".join(lines)


def names(tree: PyTree) -> list[str]:
    """A name for each number of a tree: "components.mean[0,1]"."""
    out = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        shape = jnp.shape(leaf)
        out += [name + (f"[{','.join(map(str, i))}]" if i else "") for i in np.ndindex(*shape)]
    return out


def _is_repeated(name: str) -> bool:
    head, _, index = name.rstrip("]").partition("[")
    if not head.endswith("covariance") or index.count(",") < 1:
        return False
    row, column = map(int, index.split(",")[-2:])
    return column > row


def speed(objective: np.ndarray) -> str:
    """One line on how fast a run converges, by the ratio of its last gains; empty where they tell nothing.

    The error of a rule that converges linearly shrinks by r a step, and what is left of the objective by r².
    """
    gains = np.diff(objective)
    rounding = 64 * np.finfo(objective.dtype).eps * np.maximum(1, np.abs(objective[-1:]))
    if len(gains) < 6 or not np.all(np.isfinite(gains)) or not np.all(gains[-6:] > 8 * rounding):
        return ""
    ratios = gains[-5:] / gains[-6:-1]
    ratio = float(ratios[-1])
    if np.ptp(ratios) > 0.1 * min(1 - ratio, ratio) or not 0 < ratio < 1:
        return ""
    r = math.sqrt(ratio)
    steps = math.log(0.1) / math.log(r)
    help_ = "; accelerate() would help" if steps > 30 else ""
    return f"a step removes {1 - r:.2g} of the error: about {steps:.0f} more for another digit{help_}"
