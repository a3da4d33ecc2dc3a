"""Follow every axis of every tensor through a graph, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.pointwise import like_inputs
from cbsurgeon.graph.axes.rules import RULES, split
from cbsurgeon.graph.axes.table import BATCH, Dims, Factor, extent


def follow(graph: fx.Graph, inputs: Sequence[str], batch_axes: Mapping[str, int]) -> Flow:
    """Apply the axis rule of every node, in graph order, and return the axes of all tensors.

    Args:
        graph: the graph of an exported program.
        inputs: names of the placeholders that take the user's tensors.
        batch_axes: input name → batch axis, for programs whose batch is a plain number.
    """
    flow = Flow(graph, inputs, batch_axes)
    for node in graph.nodes:
        _visit(flow, node)
    return flow


def _visit(flow: Flow, node: fx.Node) -> None:
    val = node.meta.get("val")
    if node.op == "placeholder" and isinstance(val, Tensor):
        _placeholder(flow, node)
        return
    if node.op != "call_function":
        return
    if aten.name(node) not in aten.FILLED and any(source in flow.depends for source in aten.tensors(node)):
        flow.depends.add(node)
    if isinstance(val, Tensor):
        flow.table.dims[node] = _checked(flow, node, _apply(flow, node))
    elif isinstance(val, list | tuple):
        flow.table.parts[node] = split(flow, node, val)


def _placeholder(flow: Flow, node: fx.Node) -> None:
    given = node.name in flow.inputs
    dims = [flow.table.fresh(size, given=given) for size in flow.table.sizes(node)]
    if given:
        flow.depends.add(node)
        axis = flow.batch_axes.get(node.name)
        if axis is not None and not flow.table.holds_batch(dims[axis]):
            dims[axis] = (Factor(extent(dims[axis]), BATCH),)
    flow.table.dims[node] = tuple(dims)


def _apply(flow: Flow, node: fx.Node) -> Dims:
    name = aten.name(node)
    rule = RULES.get(name)
    if rule is not None and all(source in flow.table.dims for source in aten.tensors(node)[:1]):
        return rule(flow, node)
    if name == "getitem":
        source = cast(fx.Node, node.args[0])
        index = cast(int, node.args[1])
        parts = flow.table.parts.get(source)
        if parts is not None and index < len(parts):
            return parts[index]
    return like_inputs(flow, node)


def _checked(flow: Flow, node: fx.Node, dims: Dims) -> Dims:
    """Return the dimensions that a rule gave; a dimension whose size is not that of the tensor becomes unknown."""
    sizes = flow.table.sizes(node)
    if len(dims) != len(sizes):
        return tuple(flow.table.fresh(size) for size in sizes)
    return tuple(dim if extent(dim) == size else flow.table.fresh(size) for dim, size in zip(dims, sizes, strict=True))
