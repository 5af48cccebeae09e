"""The manual's code runs as it stands, each page from top to bottom, and prints what the page shows."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(python|output)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.(\d*))?(?:e[+-]?\d+)?")
PAGES = sorted(page for page in DOCS.rglob("*.md") if BLOCK.search(page.read_text()))


def agree(shown: str, printed: str) -> bool:
    """Whether the texts are the same but for white space, one unit in the last digit, and what float32 loses."""
    texts = ["".join(NUMBER.sub("#", text).split()) for text in (shown, printed)]
    pairs = zip(NUMBER.finditer(shown), NUMBER.finditer(printed), strict=False)
    return texts[0] == texts[1] and all(close(a, b) for a, b in pairs)


def close(shown: re.Match, printed: re.Match) -> bool:
    if shown[1] is None:
        return shown[0] == printed[0]
    exponent = int(shown[0].partition("e")[2] or 0)
    number, unit = float(shown[0]), 10.0 ** (exponent - len(shown[1]))
    return abs(number - float(printed[0])) <= max(1.01 * unit, 1e-5 * abs(number))  # sums of float32 in another order


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_a_page_runs_and_prints_what_the_page_shows(page):
    text = page.read_text()
    names: dict = {"__name__": "__main__"}
    printed, options = None, np.get_printoptions()
    for block in BLOCK.finditer(text):
        line = text[: block.start()].count("\n") + 1
        if block[1] == "output":
            assert printed is not None, f"{page}:{line}: output without code before it"
            assert agree(block[2], printed), f"{page}:{line}: the code printed\n{printed}"
            continue
        said = io.StringIO()
        with contextlib.redirect_stdout(said), np.printoptions(**options):
            exec(compile("\n" * line + block[2], str(page), "exec"), names)  # noqa: S102
            options = np.get_printoptions()  # a page may set them, for itself
        printed = said.getvalue()


def test_no_code_is_hidden_from_the_test():
    """Every block is code that runs, its output, or no Python."""
    for page in DOCS.rglob("*.md"):
        for opened in re.findall(r"^ *```+(.*)$", page.read_text(), re.MULTILINE)[::2]:
            known = opened in ("python", "output", "sh", "text") or opened.startswith("{")
            assert known and "code" not in opened, f"{page}: {opened}"
    included = re.findall(r"literalinclude\} (.*)", "".join(page.read_text() for page in DOCS.rglob("*.md")))
    assert included == ["examples/hosts.py"]  # which tests/optim/test_hosts.py runs


def test_code_fits_its_box():
    for page in DOCS.rglob("*.md"):
        for block in BLOCK.finditer(page.read_text()):
            long = [line for line in block[2].splitlines() if len(line) > 100 and block[1] == "python"]
            assert not long, f"{page}: more than 100 columns: {long}"


def test_numbers_agree_to_the_last_digit_shown():
    assert agree("a 1.25 [3, -2e-3]", "a 1.2533  [3,-2e-3]")
    assert not agree("1.25", "1.27") and not agree("3", "4") and not agree("a 1.0", "b 1.0")
