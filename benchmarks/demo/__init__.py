"""What the toolkit does, on real data: `python -m benchmarks demo`.

rules     one model, four rules: probabilistic PCA climbs to its known optimum in four ways
mixture   EM against gradient ascent on ln P
vae       a VAE against the linear model; with --data, on MNIST too
Only where asked for by name, all of the first three by `chains`:
series    earthquakes by Poisson HMMs, the Nile with missing years
units     spoken digits: the states of HMM-VAEs, of a VAE with a mixture and of Gaussian HMMs
language  characters of Shakespeare: a neural HMM, amortised chains, an HMM by EM, n-grams
spoken    connected digits: CTC as exact E and gradient M, sampled alignments, a plain loop
law       EM, accelerated EM and gradients against the fraction of missing information
grammar   grammars of parts of speech: induced from sentences, and read off treebank trees
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import datasets
from . import (
    autoencoder,
    em_or_gradient,
    four_rules,
    grammar,
    language,
    law,
    mnist,
    pictures,
    pictures_grammar,
    pictures_language,
    pictures_law,
    pictures_spoken,
    pictures_units,
    series,
    spoken,
    units,
)

PARTS = ("rules", "mixture", "vae")
# each with PIECES, compute(tell, data=…), table(result), figures(result); and its picture, drawn into NAME.png
MORE: dict[str, tuple[ModuleType, Callable[[Any, Path], None]]] = {
    "series": (series, pictures.series_picture),
    "units": (units, pictures_units.units_picture),
    "language": (language, pictures_language.picture),
    "spoken": (spoken, pictures_spoken.picture),
    "law": (law, pictures_law.law_picture),
    "grammar": (grammar, pictures_grammar.grammar_picture),
}
GROUPS = {"chains": ("series", "units", "language")}


def main(
    data: Path | None,
    out: Path,
    parts: list[str] | None = None,
    *,
    speech: Path | None = None,
    text: Path | None = None,
) -> None:
    """Runs the parts (PARTS by default), prints tables, and writes pictures and `demo.json` into a folder.

    Args:
      data: an MNIST npz file, or None.
      out: the folder; made if need be.
      parts: names from PARTS, MORE and GROUPS.
      speech: an npz file of spoken digits for `units` and `spoken`, in place of the bundled speaker.
      text: a text file for `language`, in place of the bundled excerpt.
    """
    asked = [part for name in parts or PARTS for part in GROUPS.get(name, (name,))]
    if unknown := set(asked) - {*PARTS, *MORE}:
        known = ", ".join((*PARTS, *MORE, *GROUPS))
        raise SystemExit(f"parts: no part is called {', '.join(sorted(unknown))}; there are {known}")
    images = None if data is None or "vae" not in asked else datasets.mnist(data)
    spoken_digits = None if speech is None else datasets.spoken_digits(speech)
    given: dict[str, Any] = {"units": spoken_digits, "spoken": spoken_digits}
    given["language"] = None if text is None else datasets.shakespeare(text)
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = 150
    pieces = {
        "rules": four_rules.PIECES,
        "mixture": em_or_gradient.PIECES,
        "vae": autoencoder.PIECES + (0 if images is None else mnist.PIECES),
        **{name: module.PIECES for name, (module, _) in MORE.items()},
    }
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=sum(pieces[part] for part in set(asked)), completed=-1)

        def tell(text):  # before each piece
            bar.update(task, advance=1, description=text)

        figures = _run(console, tell, asked, images, given, out)
        bar.update(task, completed=bar.tasks[0].total, description="done")
    (out / "demo.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"Pictures and demo.json are in {out}.")


def _run(console, tell, parts, images, given, out) -> dict:
    """Runs the parts; every number, for demo.json."""
    found = {}
    figures = {"jax": jax.__version__, "backend": jax.default_backend(), "cpus": os.cpu_count()}

    def show(name, module, result):
        found[name], figures[name] = result, module.figures(result)
        console.print(module.table(result), figures[name]["conclusion"], "", highlight=False)

    if "rules" in parts:
        show("rules", four_rules, four_rules.compute(tell))
        pictures.four_rules_picture(found["rules"], out / "four_rules.png")
    if "mixture" in parts:
        show("mixture", em_or_gradient, em_or_gradient.compute(tell))
        pictures.contests_picture(found["mixture"], out / "em_or_gradient.png")
        found["path"] = em_or_gradient.path()
        pictures.mixture_picture(found["path"], out / "mixture.png")
    if "vae" in parts:
        show("vae", autoencoder, autoencoder.compute(tell))
        pictures.digits_picture(found["vae"], out / "vae.png")
    if images is not None:
        show("mnist", mnist, mnist.compute(tell, images))
        pictures.digits_picture(found["mnist"], out / "mnist.png")
    for name, (module, draw) in MORE.items():
        if name in parts:
            own = {} if given.get(name) is None else {"data": given[name]}
            show(name, module, module.compute(tell, **own))
            draw(found[name], out / f"{name}.png")
    if set(PARTS) <= set(parts):
        digits = found.get("mnist", found["vae"])
        pictures.overview_picture(found["rules"], found["path"], digits, out / "overview.png")
    return figures
