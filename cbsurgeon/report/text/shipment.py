"""The result of ``ship`` as lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cbsurgeon.report import accuracy, figures
from cbsurgeon.report.document import Document, listed, of_kind, parts
from cbsurgeon.report.text.latency import VERDICTS, sentence
from cbsurgeon.report.text.lines import Rows, fact, line
from cbsurgeon.vocabulary import inputs_called


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
        for note in part.get("notes", ()):
            yield fact("note", note, "yellow")
    for part in of_kind(found, "audit"):
        yield fact("cost", "\n".join(_extra(part, name, show) for name, show in figures.costs(part).items()))
        if part.get("bytes_explained"):
            yield fact("bytes", part["bytes_explained"])
    for part in of_kind(found, "evaluate"):
        yield fact("accuracy", _accuracy(part))
        if part.get("preprocessing"):
            yield fact("images", figures.preprocessing(part["preprocessing"]))
        for finding in part["findings"]:
            yield fact("wrong", finding["text"], "red")
    for part in of_kind(found, "bench"):
        yield fact("latency", sentence(part), VERDICTS.get(part["verdict"], ""))
        yield fact("", f"A is {part['a']}, B is {part['b']}{_backend(part)}")
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
    """Describe the comparison by the largest difference, and by the largest share of a tolerance that one uses."""
    batches = figures.indices(sorted({row["batch"] for row in document["rows"]}))
    worst = max(document["rows"], key=lambda row: (not row["ok"], row.get("used") or 0.0))
    word = "same" if document["ok"] else "DIFFERENT"
    found = f"{word} at batches {batches}: max |Δ| {figures.small(document['max_abs'])}"
    where = f"batch {worst['batch']}, {inputs_called(worst['inputs'])}"
    if worst.get("reason"):
        return f"{found}; {worst['reason']} ({where})"
    if worst.get("used") is None:  # a document of an older version
        return found
    return f"{found}; at most {100 * worst['used']:.0f} % of the tolerance is used ({where})"


def _accuracy(document: Document) -> str:
    """Describe the evaluation by its verdict and the first metric of each side."""
    words, _ = accuracy.verdict(document)
    said = f"{words}, {figures.counted(document['samples'], 'image')} of {document['data']}"
    first = next(iter(document["titles"].items()), None)
    if first is None:
        return said
    name, about = first
    values = [
        f"{figures.metric(values.get(name), about['share'])} in {accuracy.place(document['sides'][side])}"
        for side, values in document["metrics"].items()
    ]
    return f"{said}: {about['title']} {', '.join(values)}"


def _extra(document: Document, name: str, show: Callable[..., str]) -> str:
    row = document[name]
    return f"{figures.COSTS[name]} {show(row['difference'], signed=True)} ({figures.percent(row['relative'])})"


def _backend(document: Document) -> str:
    backend = document["environment"].get("backend")
    return f", both in {backend}" if backend else ""
