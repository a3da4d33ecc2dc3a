"""The result of ``evaluate`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report import accuracy, figures
from cbsurgeon.report.document import Document
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line

_SHOWN = 5
MOST_CLASSES, WORST_CLASSES = 20, 10
"""Up to so many classes are all listed; of more, only so many."""


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
    if document.get("per_class"):
        yield from _by_class(document)
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


def _by_class(document: Document) -> Rows:
    """Yield the first metric of every class, or of the worst ones if there are many."""
    sides, classes = list(document["sides"]), document.get("classes", ())
    about = next(iter(document["titles"].values()))
    rows = list(document["per_class"].items())
    many = len(rows) > MOST_CLASSES
    if many:
        rows = sorted(rows, key=lambda row: _worst(row[1]))[:WORST_CLASSES]
        yield line(f"the {WORST_CLASSES} worst of {len(document['per_class'])} classes; all are in --json", "bold")
    headings = [side.upper() for side in sides] if len(sides) > 1 else ["value"]
    table = grid(f"{about['title']} of class", *headings, right=headings)
    for label, values in rows:
        name = accuracy.class_name(int(label), classes)
        table.add_row(*cells(name, *(figures.metric(values.get(side), about["share"]) for side in sides)))
    yield table


def _worst(values: Mapping[str, float | None]) -> float:
    """Return the lowest value of a class; classes without a value are last."""
    return min((value for value in values.values() if value is not None), default=float("inf"))


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
