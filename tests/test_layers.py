"""Who may import whom: elbo nothing of ours, elbo.optim and elbo.models only elbo, elbo.scikit these three."""

import ast
from pathlib import Path

import pytest

import elbo
from elbo import optim, scikit
from elbo.models import families

ROOT = Path(__file__).parent.parent
PARTS = {"elbo.optim", "elbo.models", "elbo.scikit", "elbo.benchmarks"}
OURS = {"optim", "models", "scikit", "benchmarks", "tests"}  # as top-level names


def imported(file: Path) -> set[tuple[int, str]]:
    """Lines and absolute names, `from a import b` both as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.lineno, f"{node.module}{name}") for name in ["", *(f".{a.name}" for a in node.names)]}
    return found


BELOW = {
    "elbo": set(),
    "optim": {"elbo.optim"},
    "models": {"elbo.models"},
    "scikit": {"elbo.scikit", "elbo.optim", "elbo.models"},
}


@pytest.mark.parametrize("folder", BELOW)
def test_packages_import_only_what_lies_below(folder):
    linked = {path.name for path in (ROOT / "elbo").iterdir() if path.is_symlink()}
    files = [
        f
        for f in (ROOT / folder).rglob("*.py")
        if folder != "elbo" or f.relative_to(ROOT / "elbo").parts[0] not in linked
    ]
    assert files
    for file in files:
        for line, name in imported(file):
            foreign = name.split(".")[0] in OURS or ".".join(name.split(".")[:2]) in PARTS - BELOW[folder]
            assert not foreign, f"{file.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize("folder", ["optim", "models", "scikit"])
def test_other_packages_import_elbo_by_its_faces(folder):
    own = f"elbo.{folder}"
    for file in (ROOT / folder).rglob("*.py"):
        for line, name in imported(file):
            private = any(part.startswith("_") for part in name.split("."))
            assert name.startswith(own) or not (name.startswith("elbo.") and private), f"{file}:{line} imports {name}"


@pytest.mark.parametrize("folder", ["elbo", "optim", "models"])
def test_nothing_but_the_estimators_needs_scikit_learn(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert not [name for _, name in imported(file) if name.split(".")[0] == "sklearn"], file


PACKAGES = (elbo, optim, scikit, elbo.extend, elbo.posteriors, families)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_public_names_are_there_and_no_capital_letter_tells_two_apart(package):
    names = package.__all__
    assert all(hasattr(package, name) for name in names)
    assert len({name.lower().replace("_", "") for name in names}) == len(names)


def test_no_two_public_classes_have_one_name():
    """A class that two packages export is one class."""
    classes = {}
    for package in PACKAGES:
        for name in package.__all__:
            if isinstance(thing := getattr(package, name), type):
                assert classes.setdefault(name, thing) is thing, name
