"""Typed exports: a captured program in float16 or bfloat16, with means accumulated in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from cbsurgeon.deploy.rewrite import Draft, label
from cbsurgeon.errors import ExportError
from cbsurgeon.graph import Program

aten = torch.ops.aten

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

# A mean over thousands of tokens in a 16-bit type loses what the type has and, in float16, can overflow. ATen's own
# kernels accumulate in float32; exporters and builders only do so when the graph says it.
_ACCUMULATING = (aten.mean.dim, aten.mean.default)


def cast(program: Program, dtype: torch.dtype) -> Program:
    """The program with weights, inputs and outputs in a 16-bit type.

    Operators that name float32 themselves (an explicit up-cast, a float32 softmax) keep it; where such a value meets
    one of the 16-bit type it is cast down. Means over any axis accumulate in float32.

    Args:
        program: a float32 program.
        dtype: ``torch.float16`` or ``torch.bfloat16``.

    Raises:
        ExportError: an operator of the model has no such form (CB-EXPORT-06), with its node and module path.
    """
    draft = Draft(program)
    for name, tensor in draft.weights.items():
        if tensor.dtype == torch.float32:
            draft.replace_weight(name, tensor.detach().to(dtype))
    for node in list(draft.graph.nodes):
        if node.op == "placeholder":
            node.meta["val"] = _cast_value(node.meta.get("val"), dtype)
        elif node.op == "call_function":
            _cast_node(draft, node, dtype)
    _cast_outputs(draft, dtype)
    example = {name: tensor.to(dtype) if _full(tensor) else tensor for name, tensor in program.example.items()}
    return draft.finish(example)


def _cast_value(value: Any, dtype: torch.dtype) -> Any:
    if not _full(value):
        return value
    with value.fake_mode:
        return value.to(dtype)


def _full(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _cast_node(draft: Draft, node: fx.Node, dtype: torch.dtype) -> None:
    _clamp_literals(node, dtype)
    _meet(draft, node, dtype)
    if node.target in _ACCUMULATING and _type(node.args[0]) == dtype:
        _accumulate(draft, node, dtype)
        return
    try:
        label(node)
    except Exception as error:
        stack = node.meta.get("nn_module_stack") or {"": ("", "")}
        path = list(stack.values())[-1][0]
        raise ExportError(
            f"the model has no {str(dtype).removeprefix('torch.')} form",
            code="CB-EXPORT-06",
            where=f"node {node.name} ({node.target})" + (f", in {path}" if path else ""),
            why=" ".join(str(error).split())[:300],
            do="export in float32, or the other 16-bit type",
        ) from error


def _type(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None


def _meet(draft: Draft, node: fx.Node, dtype: torch.dtype) -> None:
    """Cast float32 operands down where they meet one of the 16-bit type."""
    operands = list(node.all_input_nodes)
    types = {operand: _type(operand) for operand in operands}
    tensors = [leaf for leaf in pytree.tree_leaves(node.args) if isinstance(leaf, fx.Node)]
    if dtype not in types.values() or torch.float32 not in types.values() or len(tensors) < 2:
        return
    for operand in operands:
        if types[operand] == torch.float32:
            with draft.graph.inserting_before(node):
                down = draft.call(aten.to.dtype, (operand, dtype), like=operand)
            node.replace_input_with(operand, down)


def _accumulate(draft: Draft, node: fx.Node, dtype: torch.dtype) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    with draft.graph.inserting_before(node):
        up = draft.call(aten.to.dtype, (source, torch.float32), like=node)
    node.replace_input_with(source, up)
    label(node)
    with draft.graph.inserting_after(node):
        down = draft.call(aten.to.dtype, (node, dtype), like=node)
    node.replace_all_uses_with(down, delete_user_cb=lambda user: user is not down)


def _clamp_literals(node: fx.Node, dtype: torch.dtype) -> None:
    """Keep literals such as float32's lowest number (attention masks) finite: 0 times infinity would be NaN."""
    limit = torch.finfo(dtype).max

    def clamp(value: float) -> float:
        return max(-limit, min(limit, value)) if value - value == 0.0 else value

    node.args = pytree.tree_map_only(float, clamp, node.args)


def _cast_outputs(draft: Draft, dtype: torch.dtype) -> None:
    """Outputs that stayed in float32 inside come out in the export's type."""
    output = draft.graph.output_node()
    for operand in list(output.all_input_nodes):
        if _type(operand) == torch.float32 and operand.op != "placeholder":
            with draft.graph.inserting_before(output):
                down = draft.call(aten.to.dtype, (operand, dtype), like=operand)
            output.replace_input_with(operand, down)
