"""The table of a sweep, for the terminal and the HTML page, and its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.report import figures, plots
from cbsurgeon.report.document import Document

if TYPE_CHECKING:
    from markupsafe import Markup


def section(document: Document) -> dict[str, Any]:
    """Return the template's variables for one sweep."""
    drawn = (("Bytes moved", costs(document)), (f"{document['metric']} of the runs", metrics(document)))
    return {
        "reference": document["reference"],
        "columns": columns(document),
        "rows": [(row["name"], row["name"] == document["best"], values(document, row)) for row in possible(document)],
        "refused": [(row["name"], row["refused"]) for row in document["rows"] if row["refused"]],
        "failed": [run for run in document["runs"] if run["value"] is None],
        "finding": document["finding"],
        "metric": document["metric"],
        "plots": [{"title": title, "svg": _svg(plot)} for title, plot in drawn if plot],
    }


def possible(document: Document) -> list[Mapping[str, Any]]:
    """Return the rows of the cells that exist, the baseline first."""
    return [row for row in document["rows"] if not row["refused"]]


def columns(document: Document) -> list[str]:
    """Return the names of the columns after the cell's name."""
    named = ["blocks", "params", "FLOPs", "bytes"]
    named += ["own time", "ONNX"] if _timed(document) else []
    return named + ([document["metric"], "vs baseline", "runs"] if document["metric"] else [])


def values(document: Document, row: Mapping[str, Any]) -> list[str]:
    """Return the texts of these columns for one cell."""
    plain = document["rows"][0]
    cells = [str(len(row["blocks"]) or "–"), *(_against(row, plain, name) for name in ("params", "flops", "bytes"))]
    cells += [_share(row), _size(row["onnx_bytes"])] if _timed(document) else []
    return cells + (_measured(row["metric"]) if document["metric"] else [])


def costs(document: Document) -> str:
    """Draw the bytes that each cell moves more than the baseline, in per cent."""
    plain, rows = document["rows"][0], possible(document)[1:]
    shares = [100 * (row["bytes"] - plain["bytes"]) / max(1, plain["bytes"]) for row in rows]
    return _bars("sweep-costs", [row["name"] for row in rows], shares, "bytes moved against the baseline, %")


def metrics(document: Document) -> str:
    """Draw each cell's difference to the baseline, paired over seeds, with its 95 % interval."""
    found = [(row["name"], row["metric"]["difference"]) for row in possible(document) if row["metric"]]
    rows = [(name, one) for name, one in found if one is not None]
    spread = [(one["ci95"] or [one["value"]] * 2) for _, one in rows]
    label = f"{document['metric']} against the baseline, 95 % over seeds"
    return _bars("sweep-metric", [name for name, _ in rows], [one["value"] for _, one in rows], label, spread)


def _bars(
    name: str, labels: Sequence[str], lengths: Sequence[float], title: str, spread: Sequence[Sequence[float]] = ()
) -> str:
    if not labels:
        return ""
    with plots.drawn(0.9 + 0.3 * len(labels), name) as (figure, axes):
        places = list(range(len(labels), 0, -1))
        axes.barh(places, lengths, height=0.6, color=plots.SECOND)
        for place, ends in zip(places, spread, strict=False):
            axes.plot(ends, [place, place], color="black", linewidth=1.2)
        axes.axvline(0.0, color="black", linewidth=0.6)
        axes.set_yticks(places, labels)
        axes.set_xlabel(title)
        return plots.svg(figure, name)


def _timed(document: Document) -> bool:
    return any(row["share"] for row in document["rows"])


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


def card(document: Document) -> tuple[str, str]:
    """Return the text and the detail of the sweep's summary card."""
    count = figures.counted(len(document["rows"]) - 1, "cell")
    return count, f"best: {document['best']}" if document["best"] else "costs only"


def _svg(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)
