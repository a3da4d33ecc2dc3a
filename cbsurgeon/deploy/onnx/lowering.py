"""Converting a model of operator set 18, the oldest that ``torch.onnx`` writes, to operator set 17."""

from __future__ import annotations

from typing import Any

from cbsurgeon.deploy.onnx.file import import_onnx
from cbsurgeon.errors import ExportError

IR_VERSION = 8
"""IR version of operator set 17, for runtimes that read neither a newer set nor a newer IR version."""

EXPORTERS_OLDEST = 18
"""The oldest operator set that ``torch.onnx`` writes. If an older one is requested, ``torch.onnx`` writes this one."""

_REDUCTIONS = {
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
}
_ADDED_INPUTS = {"Pad": 3}
_ADDED_ATTRIBUTES = {"Resize": {"antialias", "axes", "keep_aspect_ratio_policy"}}
_ADDED_REDUCTIONS = {"max", "min"}


def lower(model: Any, opset: int) -> None:
    """Convert a model of operator set 18 to an older one.

    Args:
        model: an ``onnx_ir`` model of operator set 18; edited in place.
        opset: 17.

    Raises:
        ExportError: an operator uses a feature that is new in 18 (CB-EXPORT-15).
    """
    for graph in (model.graph, *model.functions.values()):
        for node in list(graph.all_nodes()):
            if node.domain == "" and _changed_since(node.op_type, opset):
                _lower(node, opset)
    model.opset_imports[""], model.ir_version = opset, IR_VERSION
    for function in model.functions.values():
        function.opset_imports[""] = opset


def require_opset(model: Any, opset: int) -> None:
    """Refuse a model that does not have the requested operator set.

    Raises:
        ExportError: the exporter could not convert it, and kept another one (CB-EXPORT-15).
    """
    found = model.opset_imports.get("", opset)
    if found != opset:
        raise ExportError(
            f"the model cannot be written in operator set {opset}",
            code="CB-EXPORT-15",
            where=f"--opset {opset}",
            why=f"the exporter could not convert it, and kept {found}",
            do=f"use --opset {found}",
        )


def _changed_since(op_type: str, opset: int) -> bool:
    """Return whether an operator is defined differently in set 18 than in ``opset``."""
    schema = import_onnx().defs.get_schema(op_type, EXPORTERS_OLDEST, "")
    return bool(schema.since_version > opset)


def _lower(node: Any, opset: int) -> None:
    """Convert one operator to the older form, if there is one."""
    from onnxscript import ir

    if node.op_type in _REDUCTIONS:
        axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 else None
        absent = len(node.inputs) < 2 or node.inputs[1] is None
        if (axes is None and not absent) or ("noop_with_empty_axes" in node.attributes and absent):
            raise _refused(node, opset, "its axes are computed in the graph")
        if axes is not None:
            node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes.numpy().flatten()])
            node.resize_inputs(1)
        node.attributes.pop("noop_with_empty_axes", None)
    elif node.op_type == "Split":
        _lower_split(node, opset)
    elif node.op_type in _ADDED_INPUTS:
        if len(node.inputs) > _ADDED_INPUTS[node.op_type]:
            raise _refused(node, opset, "its input 'axes' was added in 18")
    elif node.op_type in _ADDED_ATTRIBUTES:
        used = sorted(_ADDED_ATTRIBUTES[node.op_type] & set(node.attributes))
        if used:
            raise _refused(node, opset, f"{', '.join(used)} was added in 18")
    elif node.op_type in ("ScatterElements", "ScatterND"):
        reduction = node.attributes.get("reduction")
        if reduction is not None and reduction.as_string() in _ADDED_REDUCTIONS:
            raise _refused(node, opset, f"the reduction {reduction.as_string()} was added in 18")
    else:
        raise _refused(node, opset, "the operator was added or changed in 18")


def _lower_split(node: Any, opset: int) -> None:
    """Convert ``Split``: without ``num_outputs`` the parts are equal, so the size must be divisible by their number."""
    count = node.attributes.pop("num_outputs", None)
    if count is None:
        return
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    shape = node.inputs[0].shape
    size = shape[axis] if shape is not None else None
    if not isinstance(size, int) or size % count.as_int():
        raise _refused(node, opset, "it is not known whether its parts are equal")


def _refused(node: Any, opset: int, why: str) -> ExportError:
    return ExportError(
        f"the model cannot be written in operator set {opset}",
        code="CB-EXPORT-15",
        where=f"{node.op_type} ({node.name})",
        why=why,
        do=f"use --opset {EXPORTERS_OLDEST} or newer",
    )
