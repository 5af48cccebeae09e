"""The picture of `law`: the missing information against the ratio of costs."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .law import METHODS, Row, crossing

MARKS = {"mixture": "o", "counts": "s", "chain": "^", "factors": "D", "real": "*"}
COLOURS = {"Anderson": "tab:green", "SQUAREM": "tab:olive", "L-BFGS": "tab:blue", "Adam": "tab:red"}


def law_picture(rows: list[Row], path: Path) -> None:
    """Above 1 EM needs more E steps than the method; every problem is a point for each method."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for method in METHODS[1:]:
        for kind, mark in MARKS.items():
            found = [
                (1 - row.rate, row.costs["EM"] / row.costs[method])
                for row in rows
                if row.kind == kind and np.isfinite(row.rate) and np.isfinite(row.costs["EM"])
                and np.isfinite(row.costs[method])
            ]  # fmt: skip
            if found:
                axes.scatter(*np.transpose(found), marker=mark, color=COLOURS[method], s=40, alpha=0.8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.axvline(crossing(rows)[0], color="black", linewidth=0.8, linestyle=":")
    for method, colour in COLOURS.items():
        axes.scatter([], [], color=colour, label=method)
    for kind, mark in MARKS.items():
        axes.scatter([], [], color="grey", marker=mark, label=kind)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="1 − r, the share of the error that a step of EM removes (dotted: r*)",
        ylabel="E steps of EM / E steps of the method",
        title="The less is missing, the less there is to gain on EM",
    )
    axes.invert_xaxis()
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
