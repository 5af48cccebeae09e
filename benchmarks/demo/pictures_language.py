"""The picture of the language models: bits per character, learning curves, noise of gradients, states on a text."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first
import numpy as np  # noqa: E402

from . import language  # noqa: E402
from .pictures import COLOURS, GREY, STYLE  # noqa: E402

SHADES = {
    language.NGRAM: GREY,
    language.HMM: COLOURS["em"],
    language.NETWORK: "#d9a441",
    language.EXACT: COLOURS["eg"],
    language.CRF: COLOURS["vem"],
    language.SAMPLED: COLOURS["vae"],
    language.SOFT: "#d98ac4",
}
WIDTH = 64  # characters of a line


def picture(result: language.Result, path: Path) -> None:
    """Four panels."""
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(14, 9), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        left, middle, right = top.subplots(1, 3, width_ratios=(1.1, 1, 1.1))
        bars(left, result)
        curves(middle, result)
        noise(right, result)
        letters(bottom.subplots(), result)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def bars(ax, result: language.Result) -> None:
    """Bits per character of every model, the tighter value as a line."""
    names = list(result.scores)[::-1]
    for i, name in enumerate(names):
        score = result.scores[name]
        bits = score.bits.mean() / result.frames
        ax.barh(i, bits, color=SHADES[name], height=0.7)
        ax.text(bits + 0.02, i, f"{'' if score.exact else '≤ '}{bits:.2f}", va="center")
        if score.tighter is not None:
            ax.plot([score.tighter] * 2, [i - 0.35, i + 0.35], color="black", lw=1.5)
    ax.set_yticks(range(len(names)), names)
    ax.grid(axis="y", visible=False)
    low = min(s.bits.mean() for s in result.scores.values()) / result.frames
    high = max(s.bits.mean() for s in result.scores.values()) / result.frames
    ax.set(xlim=(max(low - 0.4, 0), high + 0.3), xlabel="bits per character, held out (axis cut)")
    ax.set_title("Bits per character; line: tighter value")


def curves(ax, result: language.Result) -> None:
    """Bits per character on validation texts after each epoch."""
    for name, score in result.scores.items():
        if score.curve:
            ax.plot(range(1, len(score.curve) + 1), score.curve, "o-", ms=4, color=SHADES[name], label=name)
    for name in (language.NGRAM, language.HMM):
        ax.axhline(result.scores[name].bits.mean() / result.frames, color=SHADES[name], ls="--", lw=1.5)
    ax.set(xlabel="epochs (dashed: n-grams, HMM)", ylabel="bits per character", title="Learning, validation texts")
    ax.legend(fontsize=9)


def noise(ax, result: language.Result) -> None:
    """Deviation and bias of the gradients in Ψ, relative to the exact gradient of a tiny model."""
    names = list(result.noise)[::-1]
    for i, name in enumerate(names):
        n = result.noise[name]
        ax.barh(i + 0.19, n.deviation, color=COLOURS["eg"], height=0.36, label="standard deviation" if not i else None)
        known = n.bias > 3 * n.error
        ax.barh(i - 0.19, n.bias if known else 0, color=COLOURS["em"], height=0.36, label="bias" if not i else None)
        if not known:
            where = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 9}
            ax.text(0.02, i - 0.19, "no bias beyond noise", color=COLOURS["em"], **where)
    ax.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    ax.grid(axis="y", visible=False)
    ax.set(xscale="log", xlabel="norms of the exact gradient", title="Gradient in Ψ of (c), all paths listed")
    ax.legend(fontsize=9, loc="lower right")


def letters(ax, result: language.Result) -> None:
    """Two lines of a held-out text for each model, every letter on the colour of its decoded state."""
    row = 0
    for name, states in result.states.items():
        common = np.argsort(-np.bincount(states))  # the same colours for the states seen most
        rank = {state: i for i, state in enumerate(common.tolist())}
        for start in range(0, min(len(result.line), 2 * WIDTH), WIDTH):
            for x, t in enumerate(range(start, min(start + WIDTH, len(result.line)))):
                colour = mpl.colormaps["tab20"](rank[int(states[t])] % 20)
                ax.add_patch(plt.Rectangle((x, -row), 1, 0.9, color=colour, alpha=0.55, lw=0))
                shown = result.line[t].replace("\n", "↵")
                ax.text(x + 0.5, -row + 0.42, shown, ha="center", va="center", family="DejaVu Sans Mono", fontsize=11)
            if not start:
                ax.text(-0.7, -row + 0.42, name, ha="right", va="center", color=SHADES[name])
            row += 1
        row += 0.4
    ax.set(xlim=(0, WIDTH), ylim=(-row + 0.8, 1.1), xticks=[], yticks=[])
    ax.set_title("Most probable states on a held-out text; colours by how often a model uses a state, not by name")
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
