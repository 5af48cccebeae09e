"""What a problem is: data, our program, the judge's answer, the peers and the target."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..peers import Contender

Answer = dict[str, Any]


class Target(NamedTuple):
    """What we mean to reach.

    Attributes:
      text: for people.
      least: the ratio to reach.
      against: the ratio is the time of the best contender whose label holds all these words, over ours; or "gemm": it
        is the share of the machine's own rate of matrix products.
    """

    text: str
    least: float
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """One problem, timed and checked.

    Attributes:
      name: for `--only`.
      description: a line for people.
      unit: what is timed.
      task: the peers' `TASKS` that do it.
      make: `make(**sizes)`, the data with where to start; everyone gets the same.
      sizes, tiny: its arguments, and those of a quick trial of the machinery.
      ours: our program on the data.
      reference: the answer that every contender must give, from `peers.reference`.
      tolerance: for each entry of the answer, largest |answer − reference| / largest |reference|.
      flops: floating-point operations of one unit, counted on paper.
      counted: what that count counts.
      peers: libraries, see `peers.ADAPTERS`.
      targets: see `Target`.
    """

    name: str
    description: str
    unit: str
    task: str
    make: Callable[..., Any]
    sizes: dict[str, int]
    tiny: dict[str, int]
    ours: Callable[[Any], Contender]
    reference: Callable[[Any], Answer]
    tolerance: dict[str, float]
    flops: Callable[[Any], float]
    counted: str
    peers: tuple[str, ...] = ()
    targets: tuple[Target, ...] = field(default=())
