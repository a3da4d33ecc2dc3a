"""The result of ``sweep`` as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report import figures
from cbsurgeon.report.document import Document
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line


def swept(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield every cell with its cost and metric, and the reason for cells that are not possible."""
    rows = document["rows"]
    plain = rows[0]
    yield line(f"{document['reference']}: {figures.counted(len(rows) - 1, 'cell')}", "bold")
    timed = any(row["share"] for row in rows)
    metric = document["metric"]
    columns = ["blocks", "params", "FLOPs", "bytes"]
    columns += ["own time", "ONNX"] if timed else []
    columns += [metric, "vs baseline", "runs"] if metric else []
    table = grid("cell", *columns, right=columns)
    for row in rows:
        if row["refused"]:
            continue
        values = [len(row["blocks"]) or "–", *(_against(row, plain, name) for name in ("params", "flops", "bytes"))]
        if timed:
            values += [_share(row), _size(row["onnx_bytes"])]
        if metric:
            values += _measured(row["metric"])
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
        yield fact("best", f"{document['best']} by {'smallest' if document['minimize'] else 'largest'} mean {metric}")
    yield fact("folder", document["directory"], "green")


def _against(row: Mapping[str, Any], plain: Mapping[str, Any], name: str) -> str:
    """Format a cell's quantity as difference to the baseline; the baseline's own in full."""
    if row is plain:
        return f"{row[name]:,}"
    return f"+{row[name] - plain[name]:,}" if row[name] >= plain[name] else f"{row[name] - plain[name]:,}"


def _share(row: Mapping[str, Any]) -> str:
    share = row["share"]
    if not share:
        return "–"
    ends = share["ci95"]
    return f"{share['value']:.3%}" + (f" ({ends[0]:.3%} to {ends[1]:.3%})" if ends else "")


def _size(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.2f} MB"


def _measured(metric: Mapping[str, Any] | None) -> list[str]:
    if metric is None:
        return ["–", "–", "0"]
    shown = f"{metric['mean']:.4g}" + _ends(metric["ci95"], metric["mean"])
    difference = metric["difference"]
    against = (
        "–" if difference is None else f"{difference['value']:+.4g}" + _ends(difference["ci95"], difference["value"])
    )
    return [shown, against, str(metric["seeds"])]


def _ends(ends: Sequence[float] | None, middle: float) -> str:
    """``±`` half of an interval around its middle."""
    return "" if ends is None else f" ± {ends[1] - middle:.2g}"
