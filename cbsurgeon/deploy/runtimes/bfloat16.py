"""Running a bfloat16 ONNX file without bfloat16 kernels: float32 arithmetic, rounded after every operator.

A bfloat16 kernel with float32 accumulation computes the same, so a parity check on this form is valid for the file.
"""

from __future__ import annotations

from typing import Any

from cbsurgeon.deploy.onnx import file as onnx_file

# Operators that only move values need no rounding.
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Concat", "Gather", "Expand", "Identity", "Split"}


def round_after_every_operator(proto: Any) -> Any:
    """Return a copy of a bfloat16 model that computes in float32 and rounds every value to bfloat16."""
    onnx = onnx_file.import_onnx()
    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(proto)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.graph.value_info, *proto.graph.input, *proto.graph.output)
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == narrow:
            value.type.tensor_type.elem_type = wide
    for tensor in graph.initializer:
        _widen(onnx, tensor, narrow)
    nodes: list[Any] = []
    for node in list(graph.node):
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == narrow:
                attribute.i = wide
            elif attribute.HasField("t"):
                _widen(onnx, attribute.t, narrow)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) == narrow and node.op_type not in _MOVES:
                node.output[index] = f"{name}__exact"
                nodes.append(onnx.helper.make_node("Cast", [f"{name}__exact"], [f"{name}__narrow"], to=narrow))
                nodes.append(onnx.helper.make_node("Cast", [f"{name}__narrow"], [name], to=wide))
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def _widen(onnx: Any, tensor: Any, narrow: int) -> None:
    if tensor.data_type == narrow:
        array = onnx.numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
