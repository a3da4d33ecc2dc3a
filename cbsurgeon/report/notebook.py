"""Showing results in Python: the tables of the terminal as text for ``print``, and as HTML for notebooks.

In the HTML, every text is escaped, and curves are SVG. Result classes are in packages below this one and cannot import
it; the verbs that return them call :func:`install`, which adds the methods that ``print`` and notebooks call.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from html import escape
from typing import Any

from cbsurgeon.escapes import visible_in
from cbsurgeon.report.document import displayed, kind_of, text_of
from cbsurgeon.report.figures import counted
from cbsurgeon.report.text import VIEWS, render_text
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line

METHOD, TEXT = "_repr_html_", "__str__"
COLORS = {"red": "#b00020", "green": "#1b7f3b", "yellow": "#8a6100"}
"""Colours of verdicts; other text has the default colour, so that dark themes work."""
_CELL = "padding:1px 12px 1px 0;vertical-align:top;white-space:normal;"


def install(*kinds: type) -> None:
    """Add ``_repr_html_`` to result classes, and ``__str__`` to those that have none and that the terminal can show."""
    own: dict[str, Callable[[Any], Rows]] = {"Model": _model, "Recipe": _recipe}
    for kind in kinds:
        setattr(kind, METHOD, _method(own.get(kind.__name__, _result)))
        if kind.__name__ not in own and getattr(kind, TEXT) is object.__str__:
            setattr(kind, TEXT, _text)


def _text(result: Any) -> str:
    """The result as the command line prints it."""
    return render_text(visible_in(result.to_dict())).rstrip("\n")


def _method(rows: Callable[[Any], Rows]) -> Callable[[Any], str]:
    def html(self: Any) -> str:
        return f'<div style="font-size:90%">{"".join(map(_element, rows(self)))}{_figure(self)}</div>'

    html.__name__, html.__doc__ = METHOD, "The result as HTML, for notebooks."
    return html


def _figure(result: Any) -> str:
    """Return the curves of an analysis as SVG; empty for other results, and without matplotlib."""
    from cbsurgeon.analysis import Analysis, drawing

    if not isinstance(result, Analysis) or importlib.util.find_spec("matplotlib") is None:
        return ""
    picture = io.StringIO()
    drawing.figure_of_curves(result.to_dict()).savefig(picture, format="svg")
    return picture.getvalue()[picture.getvalue().index("<svg") :]


def _result(result: Any) -> Rows:
    documents = displayed(result.to_dict())
    for document in documents:
        yield from VIEWS[kind_of(document)](document, documents)


def _model(model: Any) -> Rows:
    yield line(f"Model {model.provenance.reference}", "bold")
    yield fact("weights", model.provenance.weights)
    if model.module is not None:
        tensors = list(model.module.parameters())
        yield fact("module", f"{type(model.module).__name__}, {sum(one.numel() for one in tensors):,} parameters")
    if model.program is not None:
        yield fact("program", f"{len(model.program.graph.nodes):,} nodes")
    inputs = [*model.example_inputs, *model.example_kwargs.values()]
    yield fact("inputs", ", ".join("x".join(map(str, one.shape)) if hasattr(one, "shape") else "…" for one in inputs))
    for recipe in model.recipes:
        yield fact(
            "inserted", f"{recipe['op']} at the {recipe['position']} of {counted(len(recipe['sites']), 'block')}"
        )


def _recipe(recipe: Any) -> Rows:
    yield line(f"Recipe: {recipe.op} at the {recipe.position} of {counted(len(recipe), 'block')}", "bold")
    yield fact("layers", recipe.layers)
    if recipe.options:
        yield fact("options", text_of(dict(recipe.options)))
    yield fact("made for", f"{recipe.reference}, fingerprint {recipe.fingerprint}")
    table = grid("#", "block", "kind", "tokens", "channels", "enabled", right=("#", "tokens", "channels"))
    for site in recipe.sites:
        enabled = "yes" if site.enabled else "no"
        table.add_row(*cells(site.index, site.path or site.stack, site.kind, site.tokens, site.channels, enabled))
    yield table


def _element(row: Any) -> str:
    """Convert a line, a fact or a table of :mod:`cbsurgeon.report.text.lines` to HTML."""
    from rich.table import Table

    if not isinstance(row, Table):
        return f"<div{_style(str(getattr(row, 'style', '')))}>{escape(_plain(row))}</div>"
    headings = "".join(f"<th {_cell(column, 'th')}>{escape(_plain(column.header))}</th>" for column in row.columns)
    body = [list(column.cells) for column in row.columns]
    rows = (
        "".join(
            f"<td {_cell(column, 'td', str(getattr(cell, 'style', '')))}>{escape(_plain(cell))}</td>"
            for column, cell in zip(row.columns, line, strict=True)
        )
        for line in zip(*body, strict=True)
    )
    head = f"<thead><tr>{headings}</tr></thead>" if row.show_header and any(one.header for one in row.columns) else ""
    return (
        f'<table style="border:none;border-collapse:collapse">{head}<tbody>'
        + "".join(f"<tr>{one}</tr>" for one in rows)
        + "</tbody></table>"
    )


def _plain(value: Any) -> str:
    return str(getattr(value, "plain", value))


def _cell(column: Any, kind: str, style: str = "") -> str:
    align = "right" if column.justify == "right" else "left"
    faint = "opacity:.65;" if "dim" in style else ""
    return f'style="{_CELL}text-align:{align};{"font-weight:bold;" if kind == "th" else ""}{faint}{_color(style)}"'


def _style(style: str) -> str:
    bold = "font-weight:bold;" if "bold" in style else ""
    return f' style="{bold}{_color(style)}"' if bold or _color(style) else ""


def _color(style: str) -> str:
    return next((f"color:{code};" for name, code in COLORS.items() if name in style.split()), "")
