"""Rewriting attention over three, or five and more, axes as attention over the four axes that ``torch.onnx`` accepts.

``scaled_dot_product_attention`` accepts any number of leading axes and treats all of them as batch. ``torch.onnx``
accepts queries, keys and values of four axes only. With five axes (windows in Hiera), leading axes are merged before
the attention and split after it. With three axes (timm's SAM folds the heads into the batch), an axis of size one is
added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.graph import Program
from cbsurgeon.graph.aten import argument, name
from cbsurgeon.graph.editing import ProgramEditor, shaped

RANK = 4
"""Number of axes of an exported attention: batch, heads, tokens, channels."""

aten = torch.ops.aten


def with_four_axes(program: Program) -> Program:
    """Return the program with every attention written over four axes; the same program if none needs it."""
    if not any(_fits(node) for node in program.exported.graph.nodes):
        return program
    editor = ProgramEditor(program)
    for node in [node for node in editor.graph.nodes if _fits(node)]:
        with editor.graph.inserting_before(node):
            result = _merged(editor, node) if node.meta["val"].dim() > RANK else _widened(editor, node)
        node.replace_all_uses_with(result)
        editor.graph.erase_node(node)
    editor.graph.eliminate_dead_code()
    return editor.finish()


def _fits(node: fx.Node) -> bool:
    """Return whether a node is an attention that needs a rewrite and allows it (equal leading axes, a small mask)."""
    if node.op != "call_function" or name(node) != "scaled_dot_product_attention":
        return False
    values, mask = [_value(operand) for operand in node.args[:3]], _value(argument(node, 3, "attn_mask"))
    ranks = {0 if value is None else value.dim() for value in values}
    if ranks == {RANK - 1}:
        return mask is None or (mask.dim() < RANK and len(node.args) > 3)
    if len(ranks) != 1 or min(ranks) <= RANK:
        return False
    leading = [[str(size) for size in value.shape[: value.dim() - RANK + 1]] for value in values]
    free = sum(not isinstance(size, int) for size in values[0].shape[: len(leading[0])])
    return leading.count(leading[0]) == len(leading) and free <= 1 and (mask is None or mask.dim() < RANK)


def _value(operand: Any) -> Any:
    value = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _widened(editor: ProgramEditor, node: fx.Node) -> fx.Node:
    """Insert the attention with an axis of size one after the batch axis."""
    arguments = list(node.args)
    for position, operand in enumerate(arguments[:4]):
        value = _value(operand)
        if value is not None and value.dim() == RANK - 1:
            wide = shaped(value, (value.shape[0], 1, *value.shape[1:]))
            arguments[position] = editor.call(aten.unsqueeze.default, (operand, 1), wide, like=node)
    value = node.meta["val"]
    result = _again(editor, node, arguments, (value.shape[0], 1, *value.shape[1:]))
    return editor.call(aten.squeeze.dim, (result, 1), value, like=node)


def _merged(editor: ProgramEditor, node: fx.Node) -> fx.Node:
    """Insert the attention with its leading axes, except the last one, merged into one."""
    value = node.meta["val"]
    last = value.dim() - RANK
    operands = []
    for operand in node.args[:3]:
        whole = operand.meta["val"]  # type: ignore[union-attr]
        flat = shaped(whole, _together(whole.shape, last))
        operands.append(editor.call(aten.flatten.using_ints, (operand, 0, last), flat, like=node))
    result = _again(editor, node, [*operands, *node.args[3:]], _together(value.shape, last))
    sizes = [size if isinstance(size, int) else -1 for size in value.shape[: last + 1]]
    return editor.call(aten.unflatten.int, (result, 0, sizes), value, like=node)


def _together(shape: Sequence[Any], last: int) -> tuple[Any, ...]:
    total = 1
    for size in shape[: last + 1]:
        total = total * size
    return (total, *shape[last + 1 :])


def _again(editor: ProgramEditor, node: fx.Node, arguments: Sequence[Any], shape: Sequence[Any]) -> fx.Node:
    """Insert a copy of an attention node with other operands."""
    result: fx.Node = editor.graph.call_function(node.target, tuple(arguments), dict(node.kwargs))  # type: ignore[arg-type]
    result.meta = {**node.meta, "val": shaped(node.meta["val"], shape)}
    return result
