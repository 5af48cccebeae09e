"""The demo's pictures, with one colour for each rule."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Ellipse  # noqa: E402

from . import autoencoder, em_or_gradient, four_rules, mnist, series  # noqa: E402

# the rules; the gradient methods of em_or_gradient are all eg, in shades of its colour
COLOURS = {"em": "#1f5fa8", "eg": "#e07b1a", "vem": "#2f9e5c", "vae": "#b5308a"}
METHODS = {"EM": COLOURS["em"], "L-BFGS": COLOURS["eg"], "Adam": "#a3480b", "SGD": "#d9a441"}
GREY = "#555555"
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlesize": 12,
    "lines.linewidth": 2,
    "image.cmap": "gray_r",
}
FLOOR = 1e-13  # nats; below it float64 sees nothing


def four_rules_picture(result: four_rules.Result, path: Path) -> None:
    """Distance from the optimum against steps and against seconds."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, width_ratios=(1.2, 1), layout="constrained")
        climb(axes[0], result, "steps")
        climb(axes[1], result, "seconds")
        axes[1].set_ylabel("")
        figure.suptitle("Four rules, one objective: PPCA of the digits", fontsize=13)
        _save(figure, path)


def climb(ax, result: four_rules.Result, over: str) -> None:
    """Distance from the optimum on one pair of axes; over steps, with names beside the ends of the curves."""
    names = {
        "em": "em: exact E,\nexact M",
        "eg": "eg: exact E,\nL-BFGS M",
        "vem": "vem: Adam E,\nexact M",
        "vae": "vae: sampled,\nAdam E and M",
    }
    ax.set(xscale="log", yscale="log", ylim=(FLOOR / 4, 100))
    for name, run in result.climbs.items():
        x, colour = getattr(run.trace, over)[1:], COLOURS[name]
        gap = np.maximum(result.best - run.trace.values[1:], FLOOR)
        ax.plot(x, gap, color=colour)
        if over == "steps":
            # eg is the steepest: its name stands to its left
            left = name == "eg"
            end = len(x) * 3 // 5 if left else -1
            where = {"xytext": (-10 if left else 8, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(names[name], (x[end], gap[end]), ha="right" if left else "left", color=colour, **where)
    if over == "steps":
        ax.set_xlim(0.7, 40 * max(run.trace.steps[-1] for run in result.climbs.values()))
    ax.set_xlabel("steps" if over == "steps" else "seconds, without compiling")
    ax.set_ylabel("nats per datum below the optimum")


def mixture_picture(found: em_or_gradient.Path, path: Path) -> None:
    """Old Faithful with its mixture."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
        ellipses(ax, found)
        _save(figure, path)


def ellipses(ax, found: em_or_gradient.Path) -> None:
    """Data, the way of the means, and the components' ellipses of 1 and 2 standard deviations."""
    ax.scatter(*found.ys.T, s=12, color="#9a9a9a", linewidths=0, label="eruptions")
    for k, (mean, covariance) in enumerate(zip(found.means[-1], found.covariances, strict=True)):
        values, vectors = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        for scale in (1, 2):
            axes = 2 * scale * np.sqrt(values[::-1])
            ellipse = Ellipse(
                mean, *axes, angle=angle, fill=scale == 1, lw=1.8, ec=COLOURS["em"], fc=COLOURS["em"] + "30"
            )
            ax.add_patch(ellipse)
        way = found.means[:, k]
        label = f"means, {len(way) - 1} EM steps" if k == 0 else None
        ax.plot(*way.T, "o-", color="black", ms=3.5, lw=1, label=label)
        ax.plot(*way[0], "s", color="black", ms=6, mfc="white", label="start" if k == 0 else None)
    ax.set(xlabel="eruption, minutes", ylabel="waiting for the next, minutes", title="Old Faithful, a mixture of two")
    ax.set(xlim=(1.2, 5.6), ylim=(38, 100))
    ax.legend(loc="upper left")


def contests_picture(contests: list[em_or_gradient.Contest], path: Path) -> None:
    """The objective below the best from the same start, against steps and milliseconds; a line for each start."""
    with mpl.rc_context(STYLE):
        columns = len(contests)
        figure, axes = plt.subplots(
            2, columns, figsize=(3.6 * columns, 6), sharey=True, layout="constrained", squeeze=False
        )
        for column, contest in zip(axes.T, contests, strict=True):
            goal = em_or_gradient.highest(contest)
            for name, method in contest.methods.items():
                gap = np.maximum(goal - method.values, 1e-7)
                steps = np.arange(1, gap.shape[1] + 1)
                pace = 1e3 * np.min(method.seconds) / gap.shape[1]
                for ax, x in zip(column, (steps, pace * steps), strict=True):
                    ax.plot(x, gap.T, color=METHODS[name], lw=0.7, alpha=0.35)
                    ax.plot(x, np.median(gap, 0), color=METHODS[name], lw=2.2, label=name)
            column[0].set(title=contest.problem.name, xlabel="steps", xscale="log")
            column[1].set(xlabel="milliseconds, without compiling", xscale="log", yscale="log", ylim=(5e-8, 30))
        for ax in axes[:, 0]:
            ax.set_ylabel("nats per datum below\nthe best from that start")
        axes[0, 0].legend(loc="upper right")
        figure.suptitle("EM and gradient ascent on ln P: bold, the median over the starts", fontsize=13)
        _save(figure, path)


def digits_picture(result: autoencoder.Result | mnist.Result, path: Path) -> None:
    """Held-out digits, what the models make of them, and what they dream up."""
    names = {
        "held out": "held-out digits",
        "VAE": "VAE reconstruction",
        "PPCA": "PPCA reconstruction",
        "VAE samples": "VAE samples",
        "PPCA samples": "PPCA samples",
    }
    names = {key: name for key, name in names.items() if key in result.pictures}
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(len(names), 1, figsize=(9, 0.65 * len(names)))
        figure.subplots_adjust(left=0.2, right=0.99, top=0.99, bottom=0.01, hspace=0.08)
        for ax, (key, name) in zip(axes, names.items(), strict=True):
            strip(ax, result.pictures[key])
            ax.set_ylabel(name, rotation=0, ha="right", va="center")
        _save(figure, path)


def strip(ax, pictures: np.ndarray) -> None:
    """Pictures side by side, with a gap; white is 0, black is 1."""
    count, height, width = pictures.shape
    gap = max(1, width // 8)
    padded = np.pad(pictures, ((0, 0), (0, 0), (0, gap)), constant_values=np.nan)
    ax.imshow(padded.transpose(1, 0, 2).reshape(height, -1)[:, :-gap], vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)


def series_picture(result: series.Result, path: Path) -> None:
    """The earthquakes with their decoded rates, the Nile with the level that two models see."""
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.4), layout="constrained")
        states = min(result.quakes, key=lambda k: result.quakes[k].bic)
        left.bar(result.years, result.counts, color="#c9c9c9", width=0.8, label="earthquakes of magnitude 7 and more")
        label = f"rate of the decoded state, {states} states (BIC)"
        left.step(result.years, result.quakes[states].expected, where="mid", color=COLOURS["em"], label=label)
        left.set(xlabel="year", ylabel="earthquakes a year", title="Earthquakes: a Poisson HMM", ylim=(0, 50))
        left.legend(loc="upper left")
        years = result.nile_years
        hidden = (years >= series.GAP[0]) & (years < series.GAP[1])
        right.plot(years[~hidden], result.flow[~hidden], ".", color=GREY, label="seen")
        right.plot(years[hidden], result.flow[hidden], ".", mfc="none", color=GREY, label="hidden from the models")
        for (name, flow), colour in zip(result.flows.items(), (COLOURS["em"], COLOURS["eg"]), strict=True):
            right.plot(years, flow.mean, color=colour, label=name)
            low, high = flow.mean - 2 * flow.scale, flow.mean + 2 * flow.scale
            right.fill_between(years, low, high, color=colour, alpha=0.15, lw=0)
        title = "The Nile: smoothed level, ± 2 standard deviations"
        right.set(xlabel="year", ylabel="flow, 10⁸ m³ a year", title=title, ylim=(400, 1550))
        right.legend(loc="upper right")
        _save(figure, path)


def overview_picture(
    rules: four_rules.Result, found: em_or_gradient.Path, digits: autoencoder.Result | mnist.Result, path: Path
) -> None:
    """The three parts side by side, for the README: 1600 pixels wide."""
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(16, 4.6), layout="constrained")
        left, middle, right = figure.subfigures(1, 3, width_ratios=(1.1, 1, 1))
        ax = left.subplots()
        climb(ax, rules, "steps")
        ax.set_title("Four rules, one objective: PPCA of the digits")
        ellipses(middle.subplots(), found)
        names = {"held out": "held-out digits", "VAE": "the VAE's reconstruction", "VAE samples": "drawn by the VAE"}
        for ax, (key, name) in zip(right.subplots(3, 1), names.items(), strict=True):
            ax.grid(False)
            strip(ax, digits.pictures[key][:6])
            ax.set_title(name)
        _save(figure, path)


@contextlib.contextmanager
def drawn(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure in our style, written to a file at the end."""
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=size, layout="constrained")
        yield figure
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100 if path.stem == "overview" else 130)
    plt.close(figure)
