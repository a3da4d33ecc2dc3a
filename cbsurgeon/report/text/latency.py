"""The result of ``bench`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report import figures
from cbsurgeon.report.document import Document
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line

VERDICTS = {"negligible": "green", "faster": "green", "slower": "red", "inconclusive": "yellow"}
"""The colour of a benchmark's verdict."""


def measured(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the verdict, the times of A, B and A again, own time, and every point of a sweep."""
    style = f"bold {VERDICTS.get(document['verdict'], '')}".strip()
    yield line(f"{document['a']} -> {document['b']}", "bold")
    yield line(sentence(document), style)
    if document.get("sweep"):
        yield from _points(document["sweep"])
        yield line(f"worst point: {figures.place(document)}", "bold")
    times = document["median_seconds"]
    peak, control = document["peak_memory"], document["control"]
    known = any(value is not None for value in peak.values())
    columns = ("median", "ratio - 1", "95 % interval", *(["peak memory"] if known else []))
    table = grid("", *columns, right=columns)
    ratio, ci95 = figures.slowdown(document["ratio"]), figures.interval(document["ci95"])
    rows = (
        ("A", figures.milliseconds(times["a"]), "", "", figures.size(peak["a"])),
        ("B", figures.milliseconds(times["b"]), ratio, ci95, figures.size(peak["b"])),
        ("A again", "", figures.slowdown(control["ratio"]), figures.interval(control["ci95"]), ""),
    )
    for row in rows:
        table.add_row(*cells(*row[: 1 + len(columns)]))
    yield table
    partial = ", partial" if document["partial"] else ""
    groups, processes = figures.counted(document["pairs"], "group"), figures.counted(document["processes"], "process")
    yield from _own(document)
    yield fact("pairs", f"{groups} in {processes}{partial}")
    for note in document["notes"]:
        yield fact("note", note, "yellow")


def sentence(document: Document) -> str:
    """Return the verdict as a sentence; older documents have it in ``verdict``."""
    return str(document.get("sentence") or document["verdict"])


def _own(document: Document) -> Rows:
    """Yield the own time of the inserted operators, and the difference of the executed graphs."""
    if document.get("own_missing"):
        yield fact("own time", f"not measured: {document['own_missing']}", "yellow")
    if not document.get("share"):
        return
    own, graph = document["own_time"], document["graph"]
    yield fact("own time", figures.own_time(document))
    for text in figures.graph_lines(graph):
        yield fact("graph", text)
    if own["sites"]:
        yield fact("sites", figures.site_times(own["sites"]))
    yield fact("profiler", figures.profiler(own))
    for note in own["notes"]:
        yield fact("note", note, "yellow")


def _points(points: Sequence[Mapping[str, Any]]) -> Rows:
    """Yield a table with one row per point of a sweep."""
    columns = ("A", "B", "ratio - 1", "95 % interval", "memory A", "memory B")
    table = grid("point", *columns, "verdict", right=columns)
    for point in points:
        times, peak = point["median_seconds"], point["peak_memory"]
        table.add_row(
            *cells(
                figures.place(point),
                figures.milliseconds(times["a"]),
                figures.milliseconds(times["b"]),
                figures.slowdown(point["ratio"]),
                figures.interval(point["ci95"]),
                figures.size(peak["a"]),
                figures.size(peak["b"]),
                point["verdict"],
            )
        )
    yield table
