"""Rendering result documents as terminal tables.

Belongs here: one file per kind of result. Not here: the terminal itself (``cli.common.terminal``).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from cbsurgeon.errors import missing
from cbsurgeon.report.document import Document, displayed, kind_of
from cbsurgeon.report.text.analysis import analyzed
from cbsurgeon.report.text.costs import audited
from cbsurgeon.report.text.evaluation import evaluated
from cbsurgeon.report.text.exports import exported
from cbsurgeon.report.text.inspection import inspected
from cbsurgeon.report.text.latency import measured
from cbsurgeon.report.text.lines import Rows, fact, line
from cbsurgeon.report.text.parity import verified
from cbsurgeon.report.text.shipment import shipped
from cbsurgeon.report.text.surgery import inserted, removed
from cbsurgeon.report.text.sweeping import swept


def render_text(document: Document, *, width: int = 100, color: bool = False) -> str:
    """Return a result document as text for a terminal of ``width`` columns, with colour codes if ``color``.

    Raises:
        MissingPackage: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise missing("rich", "report", "drawing tables") from error
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=color,
        color_system="auto" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    documents = displayed(document)
    for number, part in enumerate(documents):
        if number:
            console.print()
        for row in VIEWS[kind_of(part)](part, documents):
            console.print(row)
    return "\n".join(written.rstrip() for written in buffer.getvalue().splitlines())


def _error(document: Document, documents: Sequence[Document]) -> Rows:
    yield line(f"error: {document['what']}  [{document['code']}]", "bold red")
    for label in ("where", "why", "do", "more"):
        if document.get(label):
            yield fact(label, document[label])


VIEWS: dict[str, Callable[[Document, Sequence[Document]], Rows]] = {
    "inspect": inspected,
    "insert": inserted,
    "remove": removed,
    "export": exported,
    "verify": verified,
    "audit": audited,
    "bench": measured,
    "analyze": analyzed,
    "evaluate": evaluated,
    "ship": shipped,
    "sweep": swept,
    "error": _error,
}
