"""The picture of the acoustic units: spectra of test takes with the states below, and how pure the states are."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from . import units
from .pictures import COLOURS, GREY, drawn


def units_picture(result: units.Result, path: Path) -> None:
    """One take of each digit, the states of the HMM-VAE and of the mixture below it; purities."""
    takes = [int(np.flatnonzero(result.labels == digit)[0]) for digit in np.unique(result.labels)]
    with drawn(path, (14, 5)) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=(2.2, 1))
        rows = {name: _joined(result.units[name].states, takes, result) for name in (units.EM, units.GMM)}
        axes = left.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        features = np.concatenate([result.features[i][: _length(result, i)] for i in takes])
        axes[0].imshow(features.T, origin="lower", aspect="auto", cmap="magma", vmin=-2, vmax=2.5)
        ends = np.cumsum([_length(result, i) for i in takes])
        for end, take in zip(ends, takes, strict=True):
            axes[0].text(end - _length(result, take) / 2, 25, str(result.labels[take]), ha="center")
        axes[0].set(ylabel="mel band")
        axes[0].set_title("Test takes of the ten digits", pad=20)
        for ax, (name, states) in zip(axes[1:], rows.items(), strict=True):
            # neighbouring states differ in colour: the golden ratio of the way around the circle from each to the next
            ax.imshow(np.modf(states * 0.618)[0][None], aspect="auto", cmap="hsv", vmin=0, vmax=1)
            ax.set(yticks=[], xlabel="frame" if ax is axes[2] else "")
            ax.set_title(f"states: {name}", fontsize=10)
        for ax in axes:
            ax.grid(False)
            for end in ends[:-1]:
                ax.axvline(end - 0.5, color="white", lw=1.5)
        bars = right.subplots()
        names = list(result.units)[::-1]
        colours = {units.GMM: COLOURS["vae"], units.EM: COLOURS["em"], units.GRADIENT: COLOURS["eg"]}
        values = [result.units[n].purity[1] for n in names]
        bars.barh(range(len(names)), values, color=[colours.get(n, GREY) for n in names])
        for i, value in enumerate(values):
            bars.text(value + 0.01, i, f"{value:.2f}", va="center")
        bars.axvline(result.chance, color=GREY, ls=":", lw=1)
        bars.set_yticks(range(len(names)), [n.replace(", ", ",\n") for n in names])
        bars.set(xlim=(0, 1), xlabel="purity of states, test takes (dotted: chance)")
        plt.setp(bars.get_yticklabels(), fontsize=9)


def _length(result: units.Result, take: int) -> int:
    return int((next(iter(result.units.values())).states[take] >= 0).sum())


def _joined(states: np.ndarray, takes: list[int], result: units.Result) -> np.ndarray:
    return np.concatenate([states[i][: _length(result, i)] for i in takes]).astype(float)
