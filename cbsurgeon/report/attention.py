"""The section of the HTML page about an analysis: curves, a table, and attention over images."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.report import plots
from cbsurgeon.report.document import Document
from cbsurgeon.report.figures import corrected, counted, preprocessings

if TYPE_CHECKING:
    from cbsurgeon.analysis.drawing import Curve

ADDRESS = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
"""The only form of image that is copied from a document into the page's style sheet."""

COLUMNS = (
    *("attention", "kind", "heads", "keys", "entropy", "15 %", "85 %", "bound", "class token"),
    *("distance", "weighted distance", "gradient"),
)
SHINE, VEIL = (255, 176, 0), 140
"""Colour of attention, and the opacity (of 255) with which the rest of an image is darkened."""


def section(document: Document) -> dict[str, Any]:
    """Return the template's variables for one analysis."""
    from markupsafe import Markup

    from cbsurgeon.analysis import drawing  # here, so that cached results are shown without importing torch

    drawn = drawing.sides(document)
    shots = [shot for number, picture in enumerate(document["pictures"]) if (shot := _shot(picture, number))]
    rules = "".join(f".{shot['id']}{{background-image:url({shot['address']})}}" for shot in shots)
    return {
        **document,
        "title": " and ".join(side.get("name", side.get("reference")) for _, side in drawn),
        "where": f"{counted(document['images'], 'image')} of {document['data']}" if document["images"] else "",
        "corrected": corrected(document["corrected_for"]) if document.get("corrected_for") else "",
        "reasons": [side["reason"] for _, side in drawn if side["reason"]],
        "columns": COLUMNS,
        "tables": [(letter, [_row(layer) for layer in side["layers"]]) for letter, side in drawn if side["layers"]],
        "plots": [
            {"title": curve.title, "svg": Markup(_curve(document, curve))} for curve in drawing.available(document)
        ],
        "shots": shots,
        "made_of": preprocessings(document["preprocessing"]),
        # Every address was checked to be base64, so nothing in it can end the CSS rule.
        "rules": Markup(f"<style>{rules}</style>") if rules else "",
    }


def card(document: Document) -> tuple[str, str, str]:
    """Return the text, the detail and the tone of the analysis's summary card."""
    found = document["findings"]
    if found:
        return counted(len(found), "difference"), found[0], ""
    layers = document["layers"]
    if not layers:
        return counted(len(document["scales"]), "CB_S"), "no attention map", ""
    mean = sum(layer["entropy"]["mean"] for layer in layers) / len(layers)
    return f"{mean:.2f} nats", f"entropy over {counted(len(layers), 'attention')}", ""


def _curve(document: Document, curve: Curve) -> str:
    from cbsurgeon.analysis import drawing

    colors = drawing.Colors(plots.INK, plots.MUTED, plots.GRID, plots.FIRST, plots.SECOND)
    with plots.drawn(2.9, curve.name) as (figure, axes):
        drawing.draw(axes, document, curve, colors)
        return plots.svg(figure, f"attention-{curve.name}")


def _row(layer: Mapping[str, Any]) -> list[str]:
    entropy = layer["entropy"]
    return [
        layer["path"] or "(no module)",
        layer["kind"],
        str(layer["heads"]),
        str(layer["keys"]),
        *(_number(entropy[name]) for name in ("mean", "p15", "p85", "bound")),
        _number(layer["class_entropy"]),
        _number(layer["distance"], 5),
        _number(layer["weighted_distance"]),
        _number(layer["nuclear_norm"], 4),
    ]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _shot(picture: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """Return an image with the panels of both models; ``None`` if the document has no image of the allowed form."""
    if not ADDRESS.fullmatch(picture["pixels"]):
        return None
    height, width = picture["grid"]
    query = {"class": "class token", "mean": "mean over queries"}.get(picture["query"], f"query {picture['query']}")
    lines = [
        {"side": side.upper(), "panels": [overlay(panel, int(height), int(width)) for panel in panels]}
        for side, panels in picture["panels"].items()
    ]
    return {
        "id": f"shot{number}",
        "address": picture["pixels"],
        "name": picture["name"],
        "about": f"{picture['layer']}, {query}; yellow: the patches with {100 * picture['mass']:g} % of the attention",
        "lines": lines,
    }


def overlay(values: Sequence[float], height: int, width: int) -> str:
    """Return a panel as a small transparent PNG with one pixel per token, as a ``data:`` URL."""
    pixels = [(*SHINE, int(70 + 160 * min(max(value, 0.0), 1.0))) if value > 0 else (0, 0, 0, VEIL) for value in values]
    rows = b"".join(
        b"\0" + bytes(channel for pixel in pixels[row * width : (row + 1) * width] for channel in pixel)
        for row in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
