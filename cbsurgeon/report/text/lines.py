"""The building blocks of all tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.report.document import text_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Rows = Iterator["RenderableType"]


def line(text: str, style: str = "") -> RenderableType:
    """Return one line of text."""
    from rich.text import Text

    return Text(text, style=style)


def fact(label: str, value: str, style: str = "") -> RenderableType:
    """Return a label and its value; a long value is wrapped next to the label."""
    from rich.table import Table
    from rich.text import Text

    row = Table.grid()
    row.add_column(width=max(13, len(label) + 4))
    row.add_column(overflow="fold")
    row.add_row(Text(f"  {label}", style="dim"), Text(value, style=style))
    return row


def grid(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return a table with headings and no frame; the columns in ``right`` are numbers, aligned right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def cells(*values: Any, style: str = "") -> list[RenderableType]:
    """Return the cells of one row."""
    from rich.text import Text

    return [Text(text_of(value), style=style) for value in values]
