"""What the toolkit does, on real data: `python -m benchmarks demo`.

rules    one model, four rules: probabilistic PCA climbs to its known optimum in four ways
mixture  EM against gradient ascent on ln P
vae      a VAE against the linear model; with --data, on MNIST too
"""

import json
import platform
from pathlib import Path

PARTS = ("rules", "mixture", "vae")


def main(data: Path | None, out: Path, parts: list[str] | None = None) -> None:
    """Runs the parts (all by default), prints tables, and writes pictures and `demo.json` into a folder.

    Args:
      data: an MNIST npz file, or None.
      out: the folder; made if need be.
      parts: names from PARTS.
    """
    import jax
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from . import autoencoder, em_or_gradient, four_rules, mnist, pictures

    parts = list(parts or PARTS)
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"parts: no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = 150
    pieces = {
        "rules": four_rules.PIECES,
        "mixture": em_or_gradient.PIECES,
        "vae": autoencoder.PIECES + (mnist.PIECES if data else 0),
    }
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    found = {}
    figures = {
        "machine": {"jax": jax.__version__, "backend": jax.default_backend(), "python": platform.python_version()}
    }

    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=sum(pieces[part] for part in parts))
        begun = False

        def tell(text, piece=True):
            nonlocal begun
            bar.update(task, advance=1 if piece and begun else 0, description=text)
            begun = begun or piece

        def show(name, module, result, *lines):
            found[name], figures[name] = result, module.figures(result)
            console.print(module.table(result), *lines, "")

        if "rules" in parts:
            result = four_rules.compute(tell)
            show("rules", four_rules, result, four_rules.conclusion(result))
            pictures.four_rules_picture(result, out / "four_rules.png")
        if "mixture" in parts:
            result = em_or_gradient.compute(tell)
            show("mixture", em_or_gradient, result, em_or_gradient.conclusion(result))
            pictures.contests_picture(result, out / "em_or_gradient.png")
            found["path"] = em_or_gradient.path()
            pictures.mixture_picture(found["path"], out / "mixture.png")
        if "vae" in parts:
            result = autoencoder.compute(tell)
            show("vae", autoencoder, result, autoencoder.conclusion(result))
            pictures.digits_picture(result, out / "vae.png")
            if data is not None:
                result = mnist.compute(tell, data)
                show("mnist", mnist, result)
                pictures.digits_picture(result, out / "mnist.png")
        if set(PARTS) <= set(parts):
            digits = found.get("mnist", found["vae"])
            pictures.overview_picture(found["rules"], found["path"], digits, out / "overview.png")
        bar.update(task, completed=bar.tasks[0].total, description="done")
    (out / "demo.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    console.print(f"Pictures and demo.json are in {out}.")
