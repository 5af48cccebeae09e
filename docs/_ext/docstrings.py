"""Docstrings as Sphinx reads them: ours are plain text with backquotes for code; it wants reStructuredText."""

import importlib
import re
import sys
from typing import Any

PAGES = (
    "elbo",
    "elbo.posteriors",
    "elbo.extend",
    "elbo.numerics",
    "elbo.linalg",
    "elbo.optim",
    "elbo.models.families",
    "elbo.scikit",
)
MODELS = (
    *("mixture", "factor_analysis", "ppca", "kmeans", "criteria", "vae", "networks"),
    *("hmm", "hmm_inference", "linear_gaussian_chain", "linear_gaussian_inference", "hmm_vae", "latent_lm"),
    *("ctc", "ctc_decoding", "pcfg", "grammar"),
)
MODULES = (*PAGES, *(f"elbo.models.{name}" for name in MODELS))
CONSTANTS = ("LOG_ZERO", "IMPOSSIBLE", "PRECISION")  # described where they are written
HIDDEN: dict[str, list[str]] = {}
COLUMNS = re.compile(r"\w+ {2,}\S")
HEADING = re.compile(r"(Args|Returns|Raises|Attributes):$")


def setup(app: Any) -> dict:
    """Connects all that follows."""
    unwrap()
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", put_back, priority=600)  # after it
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", readable)
    app.connect("missing-reference", elsewhere)
    return {"parallel_read_safe": True}


def unwrap() -> None:
    """Puts the functions in the place of what jax.jit and jax.custom_jvp made of them, which Sphinx takes for data."""
    for name in MODULES:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "elbo":
            for key, thing in list(vars(module).items()):
                if type(thing).__name__ in ("PjitFunction", "custom_jvp", "custom_vjp"):
                    setattr(module, key, thing.__wrapped__)


def public() -> dict[int, str]:
    """The name that people import each public thing by."""
    names: dict[int, str] = {}
    for module in MODULES:
        for name in names_of(module):
            names.setdefault(id(getattr(sys.modules[module], name)), f"{module}.{name}")
    return names


def names_of(module: str) -> list[str]:
    """The public names of a module."""
    loaded = sys.modules[module]
    own = [name for name, thing in vars(loaded).items() if getattr(thing, "__module__", "") == module]
    return list(getattr(loaded, "__all__", [name for name in own if not name.startswith("_")]))


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out the fields of a NamedTuple, which its docstring describes."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def readable(app: Any, what: str, name: str, thing: Any, options: Any, signature: Any, returns: Any) -> tuple:
    """A signature that Sphinx can take apart: functions that are defaults by their names."""
    return signature and re.sub(r"<function (\w+)[^>]*>", r"\1", signature), returns


def elsewhere(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A reference by the private module that a class is written in, as types have; those of other projects are text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    module, _, name = target.rpartition(".")
    if module in sys.modules and module.split(".")[0] == "elbo":
        full = public().get(id(getattr(sys.modules[module], name, None)))
        if full is not None and full != target:
            found = env.get_domain("py").find_obj(env, None, None, full, "obj", 0)
            if found:
                domain = env.get_domain("py")
                return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)
        return content if name.startswith("_") or full is None else None
    return None if target.startswith("elbo.") else content


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The docstring as reStructuredText, for napoleon to read next."""
    lines[:] = [line for kind, part in parts(lines) for line in rendered(kind, part, name)]
    if what in ("attribute", "data", "property"):  # where napoleon takes what stands before a colon for a type
        HIDDEN[name], lines[:] = list(lines), []


def put_back(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """What `process` hid from napoleon."""
    lines[:] = HIDDEN.pop(name, lines)


def parts(lines: list[str]) -> list[tuple[str, list[str]]]:
    """The docstring in pieces: doctests, displayed text, and prose."""
    found: list[tuple[str, list[str]]] = []
    kind, before, start = "prose", "", 0
    for i, line in enumerate(lines):
        blank = not line.strip()
        after_blank = i > 0 and not lines[i - 1].strip()
        if not blank:
            if line.lstrip().startswith(">>>") and kind != "shown":
                kind = "doctest"
            elif kind == "doctest" and not after_blank:
                pass
            elif kind == "shown" and indent(line) >= start:
                pass
            elif after_blank and shown(lines, i, before):
                kind, start = "shown", indent(line)
            else:
                kind = "prose"
            before = line
        if found and found[-1][0] == kind:
            found[-1][1].append(line)
        else:
            found.append((kind, [line]))
    return found


def shown(lines: list[str], i: int, before: str) -> bool:
    """Whether the paragraph that begins with line i is a formula or a table of two columns."""
    line = lines[i]
    if COLUMNS.match(line) and i + 1 < len(lines) and COLUMNS.match(lines[i + 1]):
        return True
    deeper = indent(line) > indent(before) and not before.lstrip().startswith(">>>")
    return bool(before) and deeper and not line.lstrip().startswith("- ") and not HEADING.match(before.strip())


def indent(line: str) -> int:
    """How far a line is indented."""
    return len(line) - len(line.lstrip())


def rendered(kind: str, lines: list[str], name: str) -> list[str]:
    """One piece as reStructuredText."""
    if kind == "doctest":
        return ["", *lines]
    if kind == "shown":
        margin = " " * max(indent(lines[0]) - 4, 0)
        extra = "    " if not indent(lines[0]) else ""
        return ["", f"{margin}::", "", *(extra + line if line.strip() else line for line in lines), ""]
    spaced: list[str] = []
    for line in lines:
        item = line.lstrip().startswith("- ")
        if item and spaced and spaced[-1].strip() and indent(spaced[-1]) < indent(line) + 2:
            if not spaced[-1].lstrip().startswith("- "):
                spaced.append("")
        spaced.append(line)
    return re.sub(r"`([^`]+)`", lambda found: at_edges(found, name), escaped("\n".join(spaced))).split("\n")


def at_edges(found: re.Match, name: str) -> str:
    """Quoted code, set apart from what it touches: markup begins and ends at the edge of a word."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    begin = "" if not before or before.isspace() or before in "([{<\"'-/:" else "\\ "
    return begin + code(found[1], name) + ("\\ " if after.isalnum() else "")


def escaped(text: str) -> str:
    """Text whose prose, outside of backquotes, holds nothing that reStructuredText would take for markup."""
    text = re.sub(r"(^ *|: )([A-Z])\.", r"\1\2\.", text, flags=re.MULTILINE)  # "K." would be an item of a list
    pieces = re.split(r"(`[^`]+`)", text)
    pieces[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([*|])", r"\\\1", piece)) for piece in pieces[::2]]
    return "".join(pieces)


def code(quoted: str, name: str) -> str:
    """Code in backquotes, a link where it is a public name."""
    text = " ".join(quoted.split())
    wanted = re.sub(r"\(.*\)$", "", text)
    module, owner = place(name)
    if hasattr(owner, wanted):  # a method of the same class
        return f"``{text}``"
    if wanted in CONSTANTS:
        return f":py:obj:`{text} <elbo.numerics.{wanted}>`"
    for home in (module, "", "elbo", "elbo.optim", "elbo.models", *PAGES):
        inside, _, last = f"{home}.{wanted}".strip(".").rpartition(".")
        clear = "." in wanted or inside == module or "_" in last or last[:1].isupper()  # `sample` means several things
        if inside in MODULES and last in names_of(inside) and clear:
            return f":py:obj:`{text} <{inside}.{last}>`"
    return f"``{text}``"


def place(name: str) -> tuple[str, Any]:
    """The module that a documented name lies in, and the class, if any, that it is or belongs to."""
    module = name
    while module not in sys.modules:
        module = module.rpartition(".")[0]
    inner = name[len(module) + 1 :].split(".")[0]
    return module, getattr(sys.modules[module], inner, None) if inner else None
