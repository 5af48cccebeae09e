"""What one device does in one call of a compiled program: how often each instruction runs, its FLOPs, what is reduced.

`cost_analysis` counts the body of a loop once, and the length of a loop may depend on the data. So the call is traced
by JAX's profiler, which on a CPU has an event for each instruction that runs, and the events are held against the text
of the program.
"""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

_ARITHMETIC = frozenset(
    "add subtract multiply divide maximum minimum negate abs exponential exponential-minus-one log log-plus-one tanh "
    "logistic power sqrt rsqrt sine cosine erf".split()
)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
_ARRAY = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")
_VIEWS = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
_CUTS = ("dynamic-slice", "slice", "gather")
_MOVES = ("all-gather", "all-to-all", "collective-permute")


class Instruction(NamedTuple):
    """A line of a program: its name, the text of its type, what it does, and the rest of the line."""

    name: str
    type: str
    kind: str
    rest: str


class Work(NamedTuple):
    """What one device did in one call.

    Attributes:
      flops: sums, products and functions of floating-point numbers, one each; a product of matrices 2 a pair.
      bytes: that instructions read and write; of an array that is cut or written in part, that part.
      reductions: how many all-reduces, where all devices wait for each other.
      reduced: bytes that they reduce.
      moved: how many other exchanges between devices: data that travel.
    """

    flops: float
    bytes: float
    reductions: int
    reduced: int
    moved: int


def parse(text: str) -> dict[str, list[Instruction]]:
    """The computations of a program, by name."""
    computations: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(?:ENTRY )?%?([\w.-]+) ", line)):
            computations[head[1]] = body = []
        elif found := _INSTRUCTION.match(line):
            body.append(Instruction(*found.groups()))
    return computations


def arrays(type_: str) -> list[tuple[int, int]]:
    """Bytes of a number, and how many numbers, of each array in the text of a type."""
    found = [(re.sub(r"\D", "", kind), shape) for kind, shape in _ARRAY.findall(type_)]
    return [(int(bits or 8) // 8, math.prod(int(n) for n in shape.split(",") if n)) for bits, shape in found]


def work(text: str, runs: Mapping[str, int]) -> Work:
    """The work of a program, from its text and how often each instruction ran (`watched`)."""
    computations = parse(text)
    named = {i.name: i for body in computations.values() for i in body}

    def body_of(name: str, role: str) -> list[Instruction]:
        found = re.search(rf"\b{role}=%?([\w.-]+)", named[name].rest)
        return computations.get(found[1], []) if found else []

    def inner(instruction: Instruction) -> list[Instruction]:
        """Of a loop."""
        return [*body_of(instruction.name, "body"), *body_of(instruction.name, "condition")]

    def told_apart(instruction: Instruction) -> bool:
        """Whether what is in a loop has events of its own."""
        return any(i.name in runs for i in inner(instruction))

    def cost(instruction: Instruction) -> float:
        name, type_, kind, rest = instruction
        if kind in ("fusion", "call", "map"):
            return sum(map(cost, body_of(name, "calls") or body_of(name, "to_apply")))
        if kind == "while":
            return 0.0 if told_apart(instruction) else _turns(rest) * sum(map(cost, inner(instruction)))
        out = sum(count for _, count in arrays(type_))
        if not re.search(r"\b(f|bf)\d+\[", type_):
            return 0.0
        operands = _operands(instruction)
        if kind == "dot":
            return 2.0 * out * _contracted(named[operands[0]].type, rest)
        if kind in ("reduce", "reduce-window"):
            return float(sum(count for o in operands[: len(operands) // 2] for _, count in arrays(named[o].type)))
        return float(out) if kind in _ARITHMETIC else 0.0

    def touched(instruction: Instruction) -> float:
        name, type_, kind, rest = instruction
        if kind == "while":
            return 0.0 if told_apart(instruction) else _turns(rest) * sum(map(touched, inner(instruction)))
        operands = _operands(instruction)
        if kind in ("fusion", "call"):
            body = body_of(name, "calls") or body_of(name, "to_apply")
            return sum(read(body, i) for i in body if i.kind == "parameter") + written(body)
        if kind in _VIEWS or kind == "conditional":
            return 0.0
        if kind in _CUTS:
            return 2.0 * size(instruction)
        if kind == "dynamic-update-slice":
            return 2.0 * size(named[operands[1]])
        return size(instruction) + sum(size(named[o]) for o in operands if o in named)

    def read(body: list[Instruction], parameter: Instruction) -> float:
        """Bytes of a parameter that a fusion reads."""
        users = [i for i in body if parameter.name in _operands(i)]
        if any(i.kind in _VIEWS for i in users):
            users = [u for i in users for u in (body if i.kind in _VIEWS else [i]) if u is i or i.name in _operands(u)]
        parts = [size(i) if i.kind in _CUTS else 0.0 if i.kind == "dynamic-update-slice" else math.inf for i in users]
        return min(size(parameter), sum(parts))

    def written(body: list[Instruction]) -> float:
        """Bytes that a fusion writes: its root, or of what is updated in place the update."""
        root = body[-1]
        roots = [named[o] for o in _operands(root)] if root.kind == "tuple" else [root]
        updates = [named[_operands(r)[1]] if r.kind == "dynamic-update-slice" else r for r in roots]
        return sum(map(size, updates))

    ran = [(named[name], times) for name, times in runs.items() if name in named]
    reduces = [(i, times) for i, times in ran if i.kind in ("all-reduce", "all-reduce-start")]
    return Work(
        flops=sum(times * cost(i) for i, times in ran),
        bytes=sum(times * touched(i) for i, times in ran),
        reductions=sum(times for _, times in reduces),
        reduced=sum(times * sum(size * count for size, count in arrays(i.type)) for i, times in reduces),
        moved=sum(times for i, times in ran if i.kind.startswith(_MOVES)),
    )


def size(instruction: Instruction) -> float:
    """Bytes of its value."""
    return float(sum(each * count for each, count in arrays(instruction.type)))


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", instruction.rest.split(")")[0])


def _turns(rest: str) -> int:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
    return int(known[1]) if known else 1


def _contracted(type_: str, rest: str) -> int:
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
    shape = _ARRAY.search(type_)
    assert dims and shape
    sizes = [int(n) for n in shape[2].split(",") if n]
    return math.prod(sizes[int(d)] for d in dims[1].split(",") if d)


def watched(program: Callable[..., Any], *args: Any) -> dict[str, int]:
    """How often each instruction runs on the first device in one call of a compiled program."""
    jax.block_until_ready(program(*args))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*args))
        (file,) = Path(folder).rglob("*.xplane.pb")
        events = jax.profiler.ProfileData.from_file(str(file))
        told = [dict(e.stats) for plane in events.planes for line in plane.lines for e in line.events]
    return dict(Counter(t["hlo_op"] for t in told if "hlo_op" in t and t.get("device_ordinal", 0) == 0))
