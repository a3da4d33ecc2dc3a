"""The result of ``evaluate`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report import accuracy, figures
from cbsurgeon.report.document import Document
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line

_SHOWN = 5


def evaluated(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the verdict, every metric with its difference, and notes."""
    sides, claim = document["sides"], document.get("claim")
    counted = figures.counted(document["samples"], "image")
    if "b" in sides:
        words, colour = accuracy.verdict(document)
        yield line(f"{words}: {_side(sides['b'])} against {_side(sides['a'])}", f"bold {colour}")
        yield fact("data", f"{document['data']}, {counted}")
    else:
        yield line(f"{_side(sides['a'])}: {document['data']}, {counted}", "bold")
    if document["titles"]:
        headings = accuracy.columns(document)
        table = grid("metric", *headings, right=headings)
        for row in accuracy.rows(document):
            table.add_row(*cells(*row))
        yield table
    if document.get("robust"):
        headings = accuracy.robust_columns(document)
        title = next(iter(document["titles"].values()))["title"]
        table = grid(f"{title} under", *headings, right=headings)
        for row in accuracy.robust_rows(document):
            table.add_row(*cells(*row))
        yield table
    for finding in document["findings"]:
        yield fact("wrong", finding["text"], "red")
    if claim:
        colour = {"true": "green", "false": "red", "inconclusive": "yellow"}[claim["verdict"]]
        yield fact("claim", accuracy.claimed(claim, document["titles"]), colour)
    if document.get("agreement"):
        yield fact("agreement", accuracy.agreed(document))
    for flip in document.get("flipped", ())[:_SHOWN]:
        yield fact("flipped", _flipped(flip, document.get("classes", ())))
    if document.get("flips", 0) > _SHOWN:
        yield fact("", f"... {document['flips'] - _SHOWN} more with --json")
    yield from _images(document)
    for remark in document["remarks"]:
        yield fact("note", remark, "yellow")
    yield fact("speed", f"{document['images_per_second']:.0f} images/s, {document['seconds']:.1f} s")


def _images(document: Document) -> Rows:
    """Yield how images were preprocessed, converted, or left out."""
    if document["preprocessing"]:
        yield fact("images", figures.preprocessing(document["preprocessing"]))
    if document.get("preprocessing_b"):
        yield fact("images of B", figures.preprocessing(document["preprocessing_b"]), "yellow")
    if document["skipped"]:
        first = document["problems"][0]
        many = figures.counted(document["skipped"], "image")
        yield fact("not read", f"{many}, first {first['name']}: {first['reason']}", "yellow")
    for note, number in document["notes"].items():
        yield fact("note", f"{figures.counted(number, 'image')}: {note}")


def _flipped(flip: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Describe an image for which the two models predict different classes."""
    label, a, b = (accuracy.class_name(flip[key], classes) for key in ("label", "a", "b"))
    return f"{flip['name']}: A {a}, B {b}{'' if flip['label'] is None else f', label {label}'}"


def _side(side: Mapping[str, Any]) -> str:
    return f"{side['name']} ({side['backend']}, {side['dtype']})"
