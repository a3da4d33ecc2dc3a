"""The result of ``export`` as tables."""

from __future__ import annotations

from collections.abc import Sequence

from cbsurgeon.report import figures
from cbsurgeon.report.document import Document, text_of
from cbsurgeon.report.text.lines import Rows, fact, line
from cbsurgeon.report.text.parity import verified


def exported(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the file, its inputs and outputs, what was folded, and the parity check."""
    opset = f", opset {document['opset']}" if document.get("opset") else ""
    total = sum(document.get("seconds", {}).values())
    yield line(f"{document['path']}: {document['format']}{opset}, {document['dtype']}", "bold")
    yield fact("size", f"{figures.size(document['bytes'])}, written in {total:.1f} s")
    for label, ports in (("in", document["inputs"]), ("out", document["outputs"])):
        for port in ports:
            yield fact(label, f"{port['name']} {port['dtype']} [{text_of(port['dims'])}]")
    if document.get("batch"):
        yield fact("batch", figures.profile(document["batch"]))
    if kept := document.get("float32"):
        modules = list(dict.fromkeys(entry.rpartition(" (")[0] for entry in kept))
        yield fact("float32", f"{len(kept)} operators, in {text_of(modules)}")
    for note in document.get("notes", ()):
        yield fact("note", note)
    sites = document.get("sites", ())
    if sites:
        folded = [site for site in sites if site["form"]]
        yield fact("folded", f"{len(folded)} of {len(sites)} inserted operators")
        for text in figures.unfolded(sites):
            yield fact("not folded", text)
    if document.get("verify"):
        yield from verified(document["verify"], documents)
