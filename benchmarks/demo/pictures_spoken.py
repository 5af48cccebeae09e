"""The picture of connected digits: one utterance with its alignment, and how three methods learn."""

from pathlib import Path

import numpy as np

from . import spoken
from .pictures import COLOURS, GREY, drawn

METHODS = {spoken.EXACT: (COLOURS["eg"], "-"), spoken.SAMPLED: (COLOURS["vae"], "-"), spoken.PLAIN: (GREY, "--")}


def picture(result: spoken.Result, path: Path) -> None:
    """Spectrum, when each digit is spoken, and the learning curves over steps and over seconds."""
    with drawn(path, (14, 5.6)) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
        _alignment(left.subplots(2, 1, sharex=True, height_ratios=(1.2, 1)), result)
        axes = right.subplots(2, 2, sharey="row", sharex="col")
        for row, name, label in ((0, "loss", "nats per digit"), (1, "errors", "label errors")):
            for ax, over in zip(axes[row], ("steps", "seconds"), strict=True):
                for method, curve in result.curves.items():
                    colour, style = METHODS[method]
                    values = np.maximum(getattr(curve, name), 1e-3)
                    ax.plot(getattr(curve, over), values, style, color=colour, label=method, lw=1.8)
                ax.set(yscale="log", xlabel=("", over if over == "steps" else "seconds, without compiling")[row])
            axes[row, 0].set_ylabel(label)
        axes[0, 0].legend(fontsize=8.5, loc="upper right")
        right.suptitle("Test utterances while learning", fontsize=12)


def _alignment(axes, result: spoken.Result) -> None:
    stride, frames = spoken.STRIDE, len(result.spectrum)
    axes[0].imshow(result.spectrum.T, origin="lower", aspect="auto", cmap="magma", vmin=-2, vmax=2.5)
    said, heard = (" ".join(map(str, digits)) for digits in (result.digits, result.heard))
    axes[0].set_title(f"A test utterance: said {said}, heard {heard}")
    axes[0].set_ylabel("mel band")
    at = stride * (np.arange(len(result.marginals)) + 0.5) - 0.5
    axes[1].fill_between(at, result.marginals[:, ::2].sum(1), color="#dddddd", lw=0)
    for i, digit in enumerate(result.digits):
        here = result.marginals[:, 2 * i + 1]
        colour = f"C{i % 10}"
        axes[1].fill_between(at, here, color=colour, alpha=0.7, lw=0)
        axes[1].text(at[here.argmax()], 1.06, str(digit), ha="center", va="bottom", color=colour, fontweight="bold")
        spoken_at = np.flatnonzero(result.path == 2 * i + 1)
        for ax in axes:
            ax.axvline(at[spoken_at[0]] - stride / 2, color=colour, lw=1, ls=":")
    axes[1].set(ylim=(0, 1.2), xlim=(-0.5, frames - 0.5), xlabel="frame", ylabel="P(label | all frames, labels)")
    title = "When each digit is spoken: marginals (grey: blank); dotted, where the best alignment enters it"
    axes[1].set_title(title, fontsize=10)
    for ax in axes:
        ax.grid(False)
