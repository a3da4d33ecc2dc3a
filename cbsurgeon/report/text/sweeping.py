"""The result of ``sweep`` as a table."""

from __future__ import annotations

from collections.abc import Sequence

from cbsurgeon.report import figures, sweeping
from cbsurgeon.report.document import Document
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line


def swept(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield every cell with its cost and metric, and the reason for cells that are not possible."""
    rows = document["rows"]
    yield line(f"{document['reference']}: {figures.counted(len(rows) - 1, 'cell')}", "bold")
    columns = sweeping.columns(document)
    table = grid("cell", *columns, right=columns)
    for row in sweeping.possible(document):
        values = sweeping.values(document, row)
        table.add_row(*cells(row["name"], *values, style="bold" if row["name"] == document["best"] else ""))
    yield table
    for row in rows:
        if row["refused"] or row["note"]:
            yield fact(row["name"], row["refused"] or row["note"], "yellow")
    for run in document["runs"]:
        if run["value"] is None:
            yield fact("failed", f"{run['cell']}, seed {run['seed']}, {run['attempts']} attempts: {run['why']}", "red")
    if document.get("left"):
        yield fact("left", f"{figures.counted(document['left'], 'run')}; the same command continues", "yellow")
    if document["best"]:
        yield fact("best", document["finding"])
    yield fact("folder", document["directory"], "green")
