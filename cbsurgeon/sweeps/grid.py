"""The cells of a sweep."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict, dataclass
from typing import Any

from cbsurgeon.errors import UsageError
from cbsurgeon.operators.registry import operator_class
from cbsurgeon.options import Choice, SweepOptions
from cbsurgeon.vocabulary import PLACES, POSITIONS

BASELINE = "baseline"
"""Name of the model without operators, which every sweep holds beside its cells."""


@dataclass(frozen=True)
class Cell:
    """One insertion of a grid.

    Attributes:
        op, pos, at, layers: as in :class:`cbsurgeon.options.Choice`.
    """

    op: str
    pos: str
    at: str
    layers: str

    @property
    def name(self) -> str:
        """A name that a folder can have: ``cb-end-mlp-upper``."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.op}-{self.pos}-{self.at}-{self.layers}")

    def choice(self) -> Choice:
        """The same as options of :func:`cbsurgeon.plan`."""
        return Choice(**asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def cells(how: SweepOptions) -> tuple[Cell, ...]:
    """Every combination of the grid, operators outermost.

    Raises:
        UsageError: an unknown operator (CB-OP-01), position or place (CB-PLAN-01), or two cells that would have the
            same name (CB-SWEEP-01).
    """
    for op in how.op:
        operator_class(op)
    for given, known, what, flag in ((how.pos, POSITIONS, "position", "--pos"), (how.at, PLACES, "place", "--at")):
        for word in given:
            if word not in known:
                raise UsageError(
                    f"unknown {what} {word!r}", code="CB-PLAN-01", where=flag, do=f"one of {', '.join(known)}"
                )
    found = tuple(itertools.starmap(Cell, itertools.product(how.op, how.pos, how.at, how.layers)))
    names = [cell.name for cell in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not found:
        raise UsageError(
            "two cells of the grid are the same" if twice else "the grid has no cell",
            code="CB-SWEEP-01",
            where=twice[0] if twice else "--op, --pos, --at, --layers",
            why="a value was given twice" if twice else "one of the lists is empty",
            do="give every value once",
        )
    return found
