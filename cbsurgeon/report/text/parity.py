"""The result of ``verify`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report import figures
from cbsurgeon.report.document import Document
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line
from cbsurgeon.vocabulary import inputs_called


def verified(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield every row of the comparison with its tolerance, and the first block that differs."""
    a, b = document["sides"]
    word = "same" if document["ok"] else "DIFFERENT"
    yield line(f"{word}: {_side(b)} against {_side(a)}", "bold green" if document["ok"] else "bold red")
    numbers = ("batch", "max |Δ|", "rel L2", "cosine", "top-1", "allowed")
    table = grid("", "batch", "inputs", "output", "max |Δ|", "rel L2", "cosine", "top-1", "allowed", right=numbers)
    for row in document["rows"]:
        top = "–" if row["top1"] is None else f"{row['top1']:.0%}"
        cosine = "–" if row["cosine"] is None else f"{row['cosine']:.6f}"
        table.add_row(
            *cells(
                "[✓]" if row["ok"] else "[x]",
                row["batch"],
                row["inputs"],
                row["output"],
                figures.small(row["max_abs"]),
                figures.small(row["rel_l2"]),
                cosine,
                top,
                figures.small(row["tolerance"]["atol"]),
                style="" if row["ok"] else "red",
            )
        )
    yield table
    yield fact("columns", "top-1: samples with the same top class in both; allowed: the largest |Δ| that passes")
    yield fact("tolerance", figures.tolerance(document))
    if kinds := figures.kinds_of_inputs(document["rows"]):
        yield fact("inputs", kinds)
    if document.get("images"):
        yield fact("images", figures.agreement(document["images"]))
    for failure in [*document.get("failures", ()), *_reasons(document)]:
        yield fact("failed", failure, "red")
    if document["first_bad_block"]:
        yield fact("first difference", document["first_bad_block"], "red")
    for note in document.get("notes", ()):
        yield fact("note", note, "yellow")
    if not document["ok"] and not document.get("failures") and document["would_pass_at"] is not None:
        yield fact("would pass", f"at atol {figures.small(document['would_pass_at'])}")


def _reasons(document: Document) -> list[str]:
    """Return why the worst row failed, and how many others did; the table marks them."""
    failed = [row for row in document["rows"] if row.get("reason")]
    if not failed:
        return []
    worst = max(failed, key=lambda row: float("inf") if row.get("used") is None else row["used"])
    place = f"{worst['output']}, batch {worst['batch']}, {inputs_called(worst['inputs'])}"
    others = f"; {figures.counted(len(failed) - 1, 'other row')} failed too" if len(failed) > 1 else ""
    return [f"{worst['reason']} ({place}){others}"]


def _side(side: Mapping[str, Any]) -> str:
    return f"{side['name']} ({side['backend']}, {side['dtype']})"
