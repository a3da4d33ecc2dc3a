"""What the tables of all verbs are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.report.document import text_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Rows = Iterator["RenderableType"]


def line(text: str, style: str = "") -> RenderableType:
    """One line."""
    from rich.text import Text

    return Text(text, style=style)


def fact(label: str, value: str, style: str = "") -> RenderableType:
    """A label, and what belongs to it; long values are folded beside the label."""
    from rich.table import Table
    from rich.text import Text

    row = Table.grid()
    row.add_column(width=max(13, len(label) + 3))
    row.add_column(overflow="fold")
    row.add_row(Text(f"  {label}", style="dim"), Text(value, style=style))
    return row


def grid(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table with headings and no frame; the columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def cells(*values: Any, style: str = "") -> list[RenderableType]:
    """The cells of one row."""
    from rich.text import Text

    return [Text(text_of(value), style=style) for value in values]
