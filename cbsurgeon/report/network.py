"""The picture of the network: residual streams, the blocks on them, and where operators stand.

This file decides what is drawn where; ``template/network.svg`` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cbsurgeon.report.document import Document, Place, placed
from cbsurgeon.vocabulary import POSITIONS

PER_PANEL = 12
"""Blocks in one panel: as tall as a phone's screen, and what most models have in one stage."""

ROW = 46
"""Height of one block, in units of the picture."""

TOP = 34
"""Room above the first block for the panel's title."""

PATH_LETTERS = 30
"""Letters of a module path that fit into a row; the whole path is in the tooltip."""


@dataclass(frozen=True)
class Dot:
    """One position of a block: ``state`` is ``inserted``, ``before`` (was already there), ``free`` or ``none``."""

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
    """One step of a block's branch; ``operator`` marks the inserted one."""

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
    """The panels of a model's picture, in graph order, with the operators the insertions put in.

    Attention branches are drawn where an operator was put into one of them.
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
            rows = tuple(_row(block, TOP + ROW * place, places) for place, block in enumerate(part))
            title = prefix + (stack or "blocks")
            if len(parts) > 1:
                title = f"{title}, {part[0]['index']}–{part[-1]['index']}"
            drawn.append(Panel(title, rows, TOP + ROW * len(rows) + 14))
    return drawn


STEPS = ("norm", "first projection", "non-linearity", "last projection", "dropout")
INSERTED_AT = {"front": 1, "mid": 3, "end": 5}


def anatomy(insertion: Document) -> Anatomy | None:
    """The branch of one MLP block with the operator at its position; none where only attention was changed."""
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
