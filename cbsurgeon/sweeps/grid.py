"""The grid of a sweep and its cells."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict, dataclass
from typing import Any

from cbsurgeon.errors import UsageError
from cbsurgeon.operators.registry import operator_class
from cbsurgeon.options import Choice, SweepOptions
from cbsurgeon.vocabulary import BRANCHES, POSITIONS

BASELINE = "baseline"
"""Name of the model without operators, which is part of every sweep."""


@dataclass(frozen=True)
class Cell:
    """One insertion of a grid.

    Attributes:
        op, pos, at, layers: see :class:`cbsurgeon.options.Choice`.
    """

    op: str
    pos: str
    at: str
    layers: str

    @property
    def name(self) -> str:
        """A name that is valid for a folder, such as ``cb-end-mlp-upper``."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.op}-{self.pos}-{self.at}-{self.layers}")

    def choice(self) -> Choice:
        """Return the cell as options of :func:`cbsurgeon.plan`."""
        return Choice(**asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def cells(how: SweepOptions) -> tuple[Cell, ...]:
    """Return every combination of the grid, with the operator varying slowest.

    Raises:
        UsageError: an unknown operator (CB-OP-01), position or branch (CB-PLAN-01), an empty grid, or two cells with
            the same name (CB-SWEEP-01).
    """
    for op in how.op:
        operator_class(op)
    for given, known, what, flag in ((how.pos, POSITIONS, "position", "--pos"), (how.at, BRANCHES, "branch", "--at")):
        for word in given:
            if word not in known:
                raise UsageError(
                    f"unknown {what} {word!r}",
                    code="CB-PLAN-01",
                    where=flag,
                    why="every cell of the grid has one of the known values",
                    do=f"one of {', '.join(known)}",
                )
    found = tuple(itertools.starmap(Cell, itertools.product(how.op, how.pos, how.at, how.layers)))
    names = [cell.name for cell in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not found:
        raise UsageError(
            "two cells of the grid are the same" if twice else "the grid has no cells",
            code="CB-SWEEP-01",
            where=twice[0] if twice else "--op, --pos, --at, --layers",
            why="a value was given twice" if twice else "one of the lists is empty",
            do="give at least one value in each list, and each value once",
        )
    return found
