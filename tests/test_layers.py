"""Who may import whom: elbo nothing of ours, elbo.optim and elbo.models nothing of ours but elbo."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = {"elbo.optim", "elbo.models"}
OURS = {"optim", "models", "benchmarks", "tests"}  # as top-level names


def imported(file: Path) -> set[tuple[int, str]]:
    """Lines and absolute names, `from a import b` both as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.lineno, f"{node.module}{name}") for name in ["", *(f".{a.name}" for a in node.names)]}
    return found


@pytest.mark.parametrize(("folder", "own"), [("elbo", None), ("optim", "elbo.optim"), ("models", "elbo.models")])
def test_packages_import_only_what_lies_below(folder, own):
    linked = {path.name for path in (ROOT / "elbo").iterdir() if path.is_symlink()}
    files = [
        f
        for f in (ROOT / folder).rglob("*.py")
        if folder != "elbo" or f.relative_to(ROOT / "elbo").parts[0] not in linked
    ]
    assert files
    for file in files:
        for line, name in imported(file):
            foreign = name.split(".")[0] in OURS or ".".join(name.split(".")[:2]) in PARTS - {own}
            assert not foreign, f"{file.relative_to(ROOT)}:{line} imports {name}"
