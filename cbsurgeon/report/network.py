"""The picture of the network: residual streams, their blocks, and the inserted operators.

This file computes the layout; ``template/network.svg`` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cbsurgeon.report.document import Document, Place, placed
from cbsurgeon.vocabulary import POSITIONS

PER_PANEL = 12
"""Most blocks in one panel, which is then as high as a phone's screen."""

ROW = 46
"""Height of one block, in units of the picture."""

TOP = 34
"""Height of the panel's title above the first block."""

PATH_LETTERS = 30
"""Most characters of a module path in a row; the tooltip has the whole path."""


@dataclass(frozen=True)
class Dot:
    """A position of a block.

    Its state is ``inserted``, ``before`` (occupied before the insertion), ``free``, or ``none`` (no such position).
    """

    position: str
    state: str
    operator: str = ""


@dataclass(frozen=True)
class BlockRow:
    """One block in the picture."""

    index: int
    y: int
    label: str
    title: str
    size: str
    chosen: bool
    muted: bool
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Step:
    """One step of a block's branch; ``operator`` marks the inserted operator."""

    label: str
    operator: bool = False


@dataclass(frozen=True)
class Anatomy:
    """A block's branch before and after an insertion."""

    op: str
    position: str
    formula: str
    before: tuple[Step, ...]
    after: tuple[Step, ...]


@dataclass(frozen=True)
class Panel:
    """Up to :data:`PER_PANEL` blocks of one stack."""

    title: str
    rows: tuple[BlockRow, ...]
    height: int


def panels(inspection: Document, documents: Sequence[Document]) -> list[Panel]:
    """Return the panels of a model's picture, in graph order, with the inserted operators.

    Attention branches are drawn only if an operator was inserted into one of them.
    """
    places = placed(documents)
    drawn = _stacks(inspection["blocks"], places, "")
    if any(attention for attention, _, _ in places):
        drawn += _stacks(inspection.get("attention", ()), places, "attention of ")
    return drawn


def _stacks(blocks: Sequence[Mapping[str, Any]], places: Mapping[Place, str], prefix: str) -> list[Panel]:
    drawn: list[Panel] = []
    for stack in dict.fromkeys(block["stack"] for block in blocks):
        own = [block for block in blocks if block["stack"] == stack]
        parts = [own[start : start + PER_PANEL] for start in range(0, len(own), PER_PANEL)]
        for part in parts:
            rows = tuple(_row(block, TOP + ROW * number, places) for number, block in enumerate(part))
            title = prefix + (stack or "blocks")
            if len(parts) > 1:
                title = f"{title}, {part[0]['index']}–{part[-1]['index']}"
            drawn.append(Panel(title, rows, TOP + ROW * len(rows) + 14))
    return drawn


STEPS = ("norm", "up projection", "non-linearity", "down projection", "dropout")
INSERTED_AT = {"front": 1, "mid": 3, "end": 5}


def anatomy(insertion: Document) -> Anatomy | None:
    """Return the branch of an MLP block with the operator at its position; ``None`` if only attention was changed."""
    op, position = str(insertion["op"]), str(insertion["position"])
    if all(site["kind"] == "attention" for site in insertion["sites"]):
        return None
    before = tuple(Step(label) for label in STEPS)
    at = INSERTED_AT[position]
    after = (*before[:at], Step(op, operator=True), *before[at:])
    return Anatomy(op, position, str(insertion.get("formula", "")), before, after)


def _row(block: Mapping[str, Any], y: int, places: Mapping[Place, str]) -> BlockRow:
    index = int(block["index"])
    attention = block["kind"] == "attention"
    dots = tuple(_dot(block, position, places.get((attention, index, position), "")) for position in POSITIONS)
    path = str(block["path"]) or "(no module)"
    size = f"{block['tokens']} × {block['channels']} → {block['hidden']}"
    axes = ", ".join(str(axis) for axis in block["token_axes"])
    title = f"{path}: {block['kind']}, tokens on axes {axes}, {size}"
    return BlockRow(
        index=index,
        y=y,
        label=_shortened(path),
        title=title,
        size=size,
        chosen=any(dot.state == "inserted" for dot in dots),
        muted=not block["default"],
        dots=dots,
    )


def _dot(block: Mapping[str, Any], position: str, operator: str) -> Dot:
    site = block["sites"].get(position)
    if operator:
        return Dot(position, "inserted", operator)
    if site is None:
        return Dot(position, "none")
    if site["occupied"]:
        return Dot(position, "before", str(site["occupied"]))
    return Dot(position, "free")


def _shortened(path: str) -> str:
    if len(path) <= PATH_LETTERS:
        return path
    half = (PATH_LETTERS - 1) // 2
    return f"{path[:half]}…{path[-half:]}"
