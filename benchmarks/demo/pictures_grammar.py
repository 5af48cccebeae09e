"""The picture of the grammars: how EM climbs, brackets, and two parse charts."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from . import grammar
from .pictures import COLOURS, GREY, STYLE, _save


def grammar_picture(result: grammar.Result, path: Path) -> None:
    """Restarts, EM from the counted grammar, F1 of all; below, P(constituent) of one sentence under two grammars."""
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(13, 8.4), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.15))
        climb, path_ax, bars = upper.subplots(1, 3, width_ratios=(1, 1, 1.1))
        _climb(climb, result)
        _path(path_ax, result)
        _bars(bars, result)
        axes = lower.subplots(1, 2)
        for ax, (name, table) in zip(axes, result.charts.items(), strict=True):
            image = _chart(ax, result, name, table)
        lower.colorbar(image, ax=axes, label="P(constituent)", shrink=0.8)
        _save(figure, path)


def _climb(ax, result: grammar.Result) -> None:
    for values in result.climbs:
        ax.plot(np.arange(1, 1 + values.size), values, color="#b9c9de", lw=1)
    ax.plot(np.arange(1, 1 + result.climb.size), result.climb, color=COLOURS["em"], label="the best restart, then on")
    ax.set(xlabel="EM steps", ylabel="nats a word, training", title=f"Induction: {len(result.climbs)} random starts")
    ax.set_ylim(result.climb.min() - 0.02, np.quantile(result.climbs[:, 1], 1.0) + 0.05)
    ax.legend()


def _path(ax, result: grammar.Result) -> None:
    ax.plot(result.steps, [s.nats for s in result.path], "o-", color=COLOURS["em"])
    ax.set(xlabel="EM steps on sentences without trees", title="From the counted grammar")
    ax.set_ylabel("nats a word, test", color=COLOURS["em"])
    twin = ax.twinx()
    twin.grid(False)
    twin.spines["right"].set_visible(True)
    twin.plot(result.steps, [100 * s.f1 for s in result.path], "s-", color=COLOURS["eg"])
    twin.set_ylabel("F1 of brackets, %", color=COLOURS["eg"])


def _bars(ax, result: grammar.Result) -> None:
    names = list(result.scores)
    values = [100 * s.f1 for s in result.scores.values()]
    learned = [result.scores[name].nats is not None for name in names]
    ax.barh(names, values, color=[COLOURS["em"] if known else "#c9c9c9" for known in learned])
    for i, value in enumerate(values):
        ax.text(value + 1, i, f"{value:.1f}", va="center", color=GREY)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 112), xlabel="F1 of brackets, %", title=f"{result.counts[2]} trees of GUM")


def _chart(ax, result: grammar.Result, name: str, table: np.ndarray):
    words = len(result.names)
    shown = np.full((words, words), np.nan)
    for i in range(words):
        for j in range(i + 2, words + 1):
            shown[i, j - 1] = table[i, j]
    image = ax.imshow(shown, cmap="Blues", vmin=0, vmax=1)
    for i, j in result.gold | {(0, words)}:
        ax.add_patch(mpl.patches.Rectangle((j - 1.5, i - 0.5), 1, 1, fill=False, ec=COLOURS["eg"], lw=2))
    ax.set_xticks(range(words), result.names, rotation=45, fontsize=9)
    ax.set_yticks(range(words), result.names, fontsize=9)
    ax.grid(False)
    ax.set(xlabel="last word", ylabel="first word", title=f"{name}; orange: brackets of the treebank")
    return image
