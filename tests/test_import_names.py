"""What users import is `elbo`, `elbo.optim` and `elbo.models`, beside files and folders of their own of any name."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THEIRS = ["models", "optim", "scikit", "benchmarks", "tests"]
PROGRAM = """
import models, optim, scikit, benchmarks, tests
assert {m.OWNER for m in (models, optim, scikit, benchmarks, tests)} == {"user"}
import elbo
from elbo import optim as rules
from elbo.scikit import GaussianMixture
from elbo.models import mixture
from elbo.models.families import Normal
assert rules.em_step(mixture.model(2)) and rules.__name__ == "elbo.optim"
print(elbo.__file__)
"""


def is_editable_here() -> bool:
    """Whether this folder is what `pip install -e` has installed."""
    every = (found.read_text("direct_url.json") or "{}" for found in metadata.distributions(name="jax-elbo"))
    return any(json.loads(told).get("url") == ROOT.as_uri() for told in every)


def program_of_a_user(folder: Path, path: Path | None) -> str:
    """What PROGRAM prints in a folder that has modules of the names in THEIRS, half of them folders."""
    for name in THEIRS[:2]:
        (folder / f"{name}.py").write_text('OWNER = "user"\n')
    for name in THEIRS[2:]:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text('OWNER = "user"\n')
    (folder / "program.py").write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs the project's git repository")
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # as on a system that makes no links: the folders are found without them
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", built, source]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (archive,) = built.iterdir()
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(built / "installed")
    return built / "installed"


def test_a_wheel_holds_every_module_and_meets_no_name_of_the_user(wheel, tmp_path):
    ours = {
        f"elbo/{f.relative_to(ROOT)}" for folder in ("optim", "models", "scikit") for f in (ROOT / folder).rglob("*.py")
    }
    ours |= {str(f.relative_to(ROOT)) for f in (ROOT / "elbo").rglob("*.py")}  # rglob does not follow the links
    timing = [f for f in (ROOT / "benchmarks").rglob("*.py") if f.parent.name in ("benchmarks", "peers", "problems")]
    ours |= {f"elbo/{f.relative_to(ROOT)}" for f in timing}  # without the demos and their data
    held = {str(f.relative_to(wheel)) for f in wheel.rglob("*.py")}
    assert held == ours
    assert {f.name for f in wheel.iterdir() if not f.name.endswith(".dist-info")} == {"elbo"}
    assert program_of_a_user(tmp_path, wheel) == str(wheel / "elbo" / "__init__.py")


@pytest.mark.skipif(not is_editable_here(), reason="needs pip install -e of this folder")
def test_an_editable_install_meets_no_name_of_the_user(tmp_path):
    assert program_of_a_user(tmp_path, None) == str(ROOT / "elbo" / "__init__.py")


def test_a_checkout_on_the_path_meets_no_name_of_the_user(tmp_path):
    assert program_of_a_user(tmp_path, ROOT) == str(ROOT / "elbo" / "__init__.py")


def test_each_module_has_one_name():
    """A file that is imported twice, as `optim._run` too, has classes that are not those of `elbo.optim._run`."""
    assert not {name for name in sys.modules if name.split(".")[0] in ("optim", "models", "scikit")}


def test_the_distribution_has_a_name_of_its_own():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == "jax-elbo"
