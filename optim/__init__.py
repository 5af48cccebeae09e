"""Update rules: coordinate ascent on one objective, exact or by gradient in each coordinate."""

from .em import em_step
from .rule import Info, Rule, Update
from .statistics import Statistics, expected_statistics, maximize

__all__ = ["Info", "Rule", "Statistics", "Update", "em_step", "expected_statistics", "maximize"]
