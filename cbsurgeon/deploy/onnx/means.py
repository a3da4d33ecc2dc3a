"""Rewriting token means in the form ONNX Runtime computes fastest."""

from __future__ import annotations

from typing import Any

import numpy

from cbsurgeon.deploy.folding.folds import AVERAGE
from cbsurgeon.deploy.onnx.metadata import module_path


def write_means_as_products(model: Any) -> int:
    """Rewrite folded token means of ``[batch, tokens, channels]`` as a matrix product with a row of ``1 / tokens``.

    ONNX Runtime's ReduceMean over the middle axis reads memory column by column. For 196 x 512 values on one core, it
    takes 204 µs, and the matrix product 19 µs. The model's own means are not changed. Used for float32 models only,
    because a product of 16-bit values may not accumulate in float32.

    Args:
        model: an ``onnx_ir`` model; edited in place.

    Returns:
        The number of means rewritten.
    """
    from onnxscript import ir

    written = 0
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or not module_path(node.metadata_props).endswith(AVERAGE):
            continue
        source, old = node.inputs[0], node.outputs[0]
        tokens = _tokens(node, source, ir)
        if tokens is None:
            continue
        product = ir.node("MatMul", inputs=[_row(model.graph, tokens, ir), source], name=node.name)
        product.metadata_props.update(node.metadata_props)
        product.outputs[0].shape, product.outputs[0].type = old.shape, old.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [product], [old], product.outputs)
        written += 1
    return written


def _tokens(node: Any, source: Any, ir: Any) -> int | None:
    """Return the number of tokens if the node is a kept mean over the middle of three float32 axes, else ``None``."""
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 else None
    keeps = node.attributes.get("keepdims")
    shape = source.shape
    if axes is None or shape is None or len(shape) != 3 or source.dtype != ir.DataType.FLOAT:
        return None
    if [int(axis) % 3 for axis in axes.numpy().flatten()] != [1] or (keeps is not None and not keeps.as_int()):
        return None
    return shape[1] if isinstance(shape[1], int) else None


def _row(graph: Any, tokens: int, ir: Any) -> Any:
    """Return the row of ``1 / tokens``; it is added to the graph once."""
    name = f"average_of_{tokens}_tokens"
    if name not in graph.initializers:
        tensor = ir.tensor(numpy.full((1, 1, tokens), 1.0 / tokens, dtype=numpy.float32), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]
