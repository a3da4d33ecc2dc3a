"""The result of ``ship`` as lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cbsurgeon.report import accuracy, figures
from cbsurgeon.report.document import Document, listed, of_kind, parts
from cbsurgeon.report.text.latency import VERDICTS, sentence
from cbsurgeon.report.text.lines import Rows, fact, line


def shipped(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the results of a shipment, one line each; ``cbsurgeon report`` shows them in full."""
    found = list(parts(document))
    yield line(f"{document['title']}: {'shipped' if document['ok'] else 'NOT VERIFIED'}", "bold")
    for part in of_kind(found, "insert"):
        yield fact(
            "inserted",
            f"{part['op']} at {part['position']} of {len(part['sites'])} of {part['blocks']} blocks: {listed(part)}",
        )
    for part in of_kind(found, "verify"):
        yield fact("parity", _parity(part), "green" if part["ok"] else "red")
    for part in of_kind(found, "audit"):
        yield fact("cost", "\n".join(_extra(part, name, show) for name, show in figures.costs(part).items()))
        if part.get("bytes_explained"):
            yield fact("bytes", part["bytes_explained"])
    for part in of_kind(found, "evaluate"):
        words, more, _ = accuracy.card(part)
        yield fact("accuracy", f"{words}: {more}, {figures.counted(part['samples'], 'image')} of {part['data']}")
        if part.get("preprocessing"):
            yield fact("images", figures.preprocessing(part["preprocessing"]))
        for finding in part["findings"]:
            yield fact("wrong", finding["text"], "red")
    for part in of_kind(found, "bench"):
        yield fact("latency", sentence(part), VERDICTS.get(part["verdict"], ""))
        if part.get("share"):
            yield fact("own time", figures.own_time(part))
    for name, reason in document["left_out"].items():
        yield fact("not done", f"{name}: {reason}", "yellow")
    yield line("")
    yield line(f"{document['directory']}/", "bold")
    for name, entry in document["files"].items():
        yield fact(figures.size(entry["bytes"]), name)
    yield fact("", "report.html, report.json")


def _parity(document: Document) -> str:
    """Describe the comparison by the output that uses the largest part of its tolerance."""
    batches = figures.indices(sorted({row["batch"] for row in document["rows"]}))
    worst = max(document["rows"], key=lambda row: (not row["ok"], row.get("used") or 0.0))
    gap, allowed = figures.small(worst["max_abs"]), figures.small(worst["tolerance"]["atol"])
    word = "same" if document["ok"] else "DIFFERENT"
    return f"{word} at batches {batches}: max |Δ| {gap}, allowed {allowed} ({worst['inputs']} inputs)"


def _extra(document: Document, name: str, show: Callable[..., str]) -> str:
    row = document[name]
    return f"{figures.COSTS[name]} {show(row['difference'], signed=True)} ({figures.percent(row['relative'])})"
