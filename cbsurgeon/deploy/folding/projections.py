"""Finding the projection before an operator, into whose weights the operator can be folded."""

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
    """A projection whose output can be scaled by scaling its weights (the weight first, then the bias)."""

    node: fx.Node
    weights: tuple[str, ...]


def projection_before(editor: ProgramEditor, x: fx.Node, readers: int = 2) -> tuple[Projection | None, str]:
    """Return the projection that computes ``x`` and that nothing else reads; else ``None`` and the reason.

    Args:
        editor: the editor of the program.
        x: the operator's input; layout changes between the projection and ``x`` are allowed.
        readers: number of the operator's nodes that read ``x``.
    """
    node, reader_count = x, readers
    while True:
        if len(node.users) > reader_count:
            return None, f"other operators read {node.name} too"
        source = layout_source(node)
        if source is None:
            break
        node, reader_count = source, 1
    reader = f"{node.name} ({node.target})"
    if node.op != "call_function" or node.kwargs:
        return None, f"it follows {reader}, not a projection"
    if node.target in PROJECTIONS:
        operands = node.args[1:3]
    elif node.target == aten.addmm.default:
        operands = (node.args[2], node.args[0])
    elif node.target == aten.batch_norm.default and node.args[5] is False:
        operands = node.args[1:3]
        if not all(isinstance(operand, fx.Node) for operand in operands):
            return None, f"it follows {reader}, which has no weights to scale"
    else:
        return None, f"it follows {reader}, which is not a projection and has no weights to scale"
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
