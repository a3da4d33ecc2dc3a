"""The projection in front of an operator, whose weights can take up what the operator does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from cbsurgeon.deploy.folding.pattern import layout_source
from cbsurgeon.graph.editing import ProgramEditor

aten = torch.ops.aten

LINEAR = aten.linear.default
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
PROJECTIONS = {LINEAR, *CONVOLUTIONS}


@dataclass(frozen=True)
class Projection:
    """A projection whose output may be scaled by scaling its weights (the weight first, then the bias)."""

    node: fx.Node
    weights: tuple[str, ...]


def projection_before(editor: ProgramEditor, x: fx.Node, readers: int = 2) -> tuple[Projection | None, str]:
    """The projection whose result reaches ``x`` through operators a factor passes through, read by nobody else.

    Args:
        editor: of the program.
        x: what the operator takes.
        readers: how many of the operator's nodes read it.
    """
    node, reader_count = x, readers
    while True:
        if len(node.users) > reader_count:
            return None, f"{node.name} has other readers"
        source = layout_source(node)
        if source is None:
            break
        node, reader_count = source, 1
    reader = f"{node.name} ({node.target})"
    if node.op != "call_function" or node.kwargs:
        return None, f"no projection stands before it, but {reader}"
    if node.target in PROJECTIONS:
        operands = node.args[1:3]
    elif node.target == aten.addmm.default:
        operands = (node.args[2], node.args[0])
    elif node.target == aten.batch_norm.default and node.args[5] is False:
        operands = node.args[1:3]
        if not all(isinstance(operand, fx.Node) for operand in operands):
            return None, f"{reader} has no weight of its own"
    else:
        return None, f"{reader} is no projection, so a factor cannot go into its weights"
    return _own_weights(editor, node, operands)


def _own_weights(editor: ProgramEditor, node: fx.Node, operands: tuple[Any, ...]) -> tuple[Projection | None, str]:
    names = []
    for operand in operands:
        if operand is None:
            continue
        if not isinstance(operand, fx.Node) or operand.name not in editor.weights:
            return None, f"the weight of {node.name} is computed in the graph"
        if len(operand.users) != 1:
            return None, f"the weight of {node.name} is shared by {len(operand.users)} operators"
        names.append(operand.name)
    return Projection(node, tuple(names)), ""
