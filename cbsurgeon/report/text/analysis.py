"""The result of ``analyze`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.report.document import Document
from cbsurgeon.report.figures import corrected, counted, preprocessings
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("entropy", "15-85 %", "bound", "class", "distance", "weighted", "gradient")


def analyzed(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the quantities of every layer of one or both models, the scales, and the findings."""
    b = document.get("candidate")
    names = document["reference"] + (f" -> {b['name']}" if b else "")
    where = f", {counted(document['images'], 'image')} of {document['data']}" if document["images"] else ""
    yield line(f"{names}: {counted(len(document['layers']), 'attention')}{where}", "bold")
    for label, side in (("A", document), ("B", b)):
        if side and side["layers"]:
            yield line(f"{label}  {side.get('name', side.get('reference'))}" if b else "", "bold")
            yield _layers(side["layers"])
        if side and side["reason"]:
            yield fact("no map", side["reason"], "yellow")
    if document["images"]:
        yield fact("entropy", "in nats: mean, 15th to 85th percentile, upper bound ln keys; class: class token's row")
        yield fact(
            "distance", "weight times distance, mean over all pairs of spatial tokens (of the order of 1 / tokens)"
        )
        yield fact("weighted", "mean distance to the other spatial tokens, weighted by attention; the image has side 1")
        yield fact("gradient", "nuclear norm of the softmax Jacobian; * if the scale is assumed")
    for side in filter(None, (document, b)):
        if side["scales"]:
            yield line("")
            yield _scales(side["scales"])
            yield fact("ratio", "10th percentile of the magnitudes of a layer's scales, divided by the 90th")
    for finding in document["findings"]:
        yield fact("finding", finding, "green")
    if b and document["difference"] and not document["findings"]:
        yield fact("finding", "no significant difference (95 % confidence)")
    if document.get("corrected_for"):
        yield fact("findings", corrected(document["corrected_for"]))
    for name, how in preprocessings(document["preprocessing"]):
        yield fact(name, how)
    for remark in document["remarks"]:
        yield fact("note", remark, "yellow")


def _layers(layers: Sequence[Mapping[str, Any]]) -> Table:
    table = grid("#", "attention", *COLUMNS, right=("#", *COLUMNS))
    for layer in layers:
        entropy = layer["entropy"]
        between = f"{_number(entropy['p15'])}-{_number(entropy['p85'])}"
        numbers = [layer[name] for name in ("class_entropy", "distance", "weighted_distance", "nuclear_norm")]
        path = layer["path"] or "(no module)"
        mark = "" if layer["scale_read"] else " *"
        table.add_row(
            *cells(
                layer["index"],
                path,
                _number(entropy["mean"]),
                between,
                _number(entropy["bound"]),
                *map(_number, numbers[:1]),
                _number(numbers[1], 5),
                _number(numbers[2]),
                _number(numbers[3], 4) + mark,
            )
        )
    return table


def _scales(scales: Sequence[Mapping[str, Any]]) -> Table:
    numbers = ("ratio", "mean", "mean of magnitudes")
    table = grid("CB_S", *numbers, right=numbers)
    for scale in scales:
        ratio = _number(scale["ratio"], 4) if scale["ratio"] is not None else "not defined: all 0"
        table.add_row(*cells(scale["path"], ratio, _number(scale["mean"], 4), _number(scale["mean_abs"], 4)))
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
