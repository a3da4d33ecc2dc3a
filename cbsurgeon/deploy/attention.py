"""Attention over more than four axes, in the four that ONNX exporters know.

``scaled_dot_product_attention`` takes any number of leading axes and treats all of them as batch; ``torch.onnx`` takes
queries, keys and values of four axes only (windows of Hiera have five). Leading axes are merged before and split after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.deploy.rewrite import Draft, shaped
from cbsurgeon.graph import Program, ops

RANK = 4
"""Axes an exported attention has: batch, heads, tokens, channels."""


def flatten_attention(program: Program) -> Program:
    """The program with every attention of more than four axes written in four; the same program where there is none."""
    if not any(_fits(node) for node in program.exported.graph.nodes):
        return program
    draft = Draft(program)
    for node in [node for node in draft.graph.nodes if _fits(node)]:
        _rewrite(draft, node)
    return draft.finish()


def _fits(node: fx.Node) -> bool:
    """More than four axes, alike in front, at most one of them free, and no mask that varies along them."""
    if node.op != "call_function" or ops.name(node) != "scaled_dot_product_attention":
        return False
    values = [_value(operand) for operand in node.args[:3]]
    if any(value is None or value.dim() != values[0].dim() for value in values) or values[0].dim() <= RANK:
        return False
    merged = values[0].dim() - RANK + 1
    leading = [[str(size) for size in value.shape[:merged]] for value in values]
    mask = _value(ops.argument(node, 3, "attn_mask"))
    return (
        leading.count(leading[0]) == len(leading)
        and sum(not isinstance(size, int) for size in values[0].shape[:merged]) <= 1
        and (mask is None or mask.dim() < RANK)
    )


def _value(operand: Any) -> Any:
    value = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _rewrite(draft: Draft, node: fx.Node) -> None:
    graph, value = draft.graph, node.meta["val"]
    merged = value.dim() - RANK + 1
    with graph.inserting_before(node):
        operands = [_merge(draft, operand, merged, node) for operand in node.args[:3]]
        result = graph.call_function(node.target, (*operands, *node.args[3:]), dict(node.kwargs))  # type: ignore[arg-type]
        result.meta = {**node.meta, "val": shaped(value, _merged(value.shape, merged))}
        sizes = [size if isinstance(size, int) else -1 for size in value.shape[:merged]]
        split = draft.call(torch.ops.aten.unflatten.int, (result, 0, sizes), value, like=node)
    node.replace_all_uses_with(split)
    graph.erase_node(node)


def _merge(draft: Draft, operand: Any, merged: int, like: fx.Node) -> fx.Node:
    value = operand.meta["val"]
    arguments = (operand, 0, merged - 1)
    return draft.call(
        torch.ops.aten.flatten.using_ints, arguments, shaped(value, _merged(value.shape, merged)), like=like
    )


def _merged(shape: Sequence[Any], merged: int) -> tuple[Any, ...]:
    total = 1
    for size in shape[:merged]:
        total = total * size
    return (total, *shape[merged:])
