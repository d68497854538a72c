"""What was measured, as numbers and as a table: pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figure:
    """One thing measured several times, in `unit`, the usual way too where it has such a thing.

    `budget` is what Backstay may take, None where nothing was promised. `less` says that it must stay below the budget.
    """

    name: str
    unit: str
    budget: float | None = None
    less: bool = False
    ours: list[float] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the budget, or where nothing may fail or be reached, the worst. None: no verdict."""
        if self.budget is None or not self.ours:
            return None
        found = max(self.ours) if self.less or self.budget == 0 else statistics.median(self.ours)
        return found < self.budget if self.less else found <= self.budget

    @property
    def ratio(self) -> float | None:
        """The usual way's median as a multiple of Backstay's."""
        if not self.ours or not self.usual or statistics.median(self.ours) <= 0:
            return None
        return statistics.median(self.usual) / statistics.median(self.ours)

    def row(self) -> str:
        budget = "" if self.budget is None else f"{'<' if self.less else '≤'} {number(self.budget)} {self.unit}".strip()
        verdict = {None: "", True: "met", False: "**missed**"}[self.met]
        ratio = "" if self.ratio is None else f"{number(self.ratio)}"
        cells = (f"{self.name}, {self.unit}" if self.unit else self.name, spread(self.ours), spread(self.usual), ratio)
        return f"| {' | '.join(cells)} | {budget} | {verdict} |"

    def as_json(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "backstay": self.ours,
            "usual": self.usual,
            "ratio": self.ratio,
            "budget": self.budget,
            "met": self.met,
        }


def number(value: float) -> str:
    """As many digits as mean something: three, and never an exponent."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """min / median / max, or the one value that there is."""
    if not values:
        return ""
    if len(values) == 1 or min(values) == max(values):
        return number(values[0])
    return " / ".join(number(value) for value in (min(values), statistics.median(values), max(values)))


class Figures:
    """All figures, in the order in which they were first noted."""

    def __init__(self) -> None:
        self._all: dict[str, Figure] = {}

    def of(self, name: str, unit: str, budget: float | None = None, *, less: bool = False) -> Figure:
        return self._all.setdefault(name, Figure(name, unit, budget, less))

    def as_json(self) -> dict[str, Any]:
        return {name: figure.as_json() for name, figure in self._all.items()}

    def table(self) -> str:
        return table(self._all.values())


def table(figures: Iterable[Figure]) -> str:
    """The figures in Markdown."""
    head = ["| what | Backstay | the usual way | usual / Backstay | budget | |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(figure.row() for figure in figures if figure.ours or figure.usual)])
