"""Who may import whom: elbo nothing of ours, optim and models elbo only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"elbo", "optim", "models", "benchmarks", "tests"}


@pytest.mark.parametrize(
    ("package", "allowed"), [("elbo", set()), ("optim", {"elbo"}), ("models", {"elbo"})], ids=lambda p: str(p)
)
def test_packages_import_only_what_lies_below(package, allowed):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            foreign = {name.split(".")[0] for name in names} & (OURS - allowed)
            assert not foreign, f"{file.relative_to(ROOT)}:{node.lineno} imports {foreign}"
