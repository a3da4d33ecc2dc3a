"""``summary``: the inserted operators of a module, as a table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from cbsurgeon.graph.occupants import ON_OUTPUT
from cbsurgeon.operators import Operator
from cbsurgeon.surgery.module.attachment import attached

COLUMNS = ("block", "operator", "at", "layer", "parameters", "options")


@dataclass(frozen=True)
class Inserted:
    """One inserted operator.

    Attributes:
        index: index of the block, as in ``inspect``; ``None`` if no recipe has it.
        op: name of the operator.
        position: ``front``, ``mid`` or ``end``.
        path: path of its layer.
        parameters: number of parameters it adds.
        options: its options.
        disabled: whether ``cbsurgeon.disable`` skips it at present.
    """

    index: int | None
    op: str
    position: str
    path: str
    parameters: int
    options: Mapping[str, Any]
    disabled: bool

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        state = f"{self.op} (disabled)" if self.disabled else self.op
        index = "?" if self.index is None else str(self.index)
        return index, state, self.position, self.path, str(self.parameters), options


@dataclass(frozen=True)
class Summary:
    """The inserted operators of a module, in the order of its sub-modules; false if there is none."""

    operators: tuple[Inserted, ...]

    def __len__(self) -> int:
        return len(self.operators)

    def __str__(self) -> str:
        if not self.operators:
            return "no operator is inserted"
        rows = [COLUMNS, *(each.cells() for each in self.operators)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        rows = [
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in each.cells()) + "</tr>"
            for each in self.operators
        ]
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
        return f"<p>{html.escape(self.title)}</p>{table}"

    @property
    def title(self) -> str:
        """The number of operators, and of the parameters that they add, as a sentence."""
        if not self.operators:
            return "no operator is inserted"
        names = ", ".join(dict.fromkeys(each.op for each in self.operators))
        added = sum(each.parameters for each in self.operators)
        return f"{len(self)} x {names}, {added} parameters added"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"operators": [{**vars(each), "options": dict(each.options)} for each in self.operators]}


def summary(module: nn.Module) -> Summary:
    """Return the inserted operators of a module and their sites; ``print`` it, or end a notebook cell with it."""
    return Summary(tuple(_row(path, name, operator) for path, _, name, operator in attached(module)))


def _row(path: str, name: str, operator: Operator) -> Inserted:
    site = _site(path, name, operator)
    return Inserted(
        site.get("index"),
        operator.name,
        site.get("position", "end" if name == ON_OUTPUT else "input"),
        path,
        sum(parameter.numel() for parameter in operator.parameters()),
        operator.options(),
        operator.pause is not None and operator.pause.on,
    )


def _site(path: str, name: str, operator: Operator) -> Mapping[str, Any]:
    """The operator's site in its recipe. The path may be longer than in the recipe: wrappers add prefixes."""
    when = "output" if name == ON_OUTPUT else "input"
    found: Mapping[str, Any] = {}
    for site in (operator.inserted_by or {}).get("sites", ()):
        for hook in site["hooks"][:1]:
            if hook["when"] == when and (path == hook["module"] or path.endswith(f".{hook['module']}")):
                found = site
    return found
