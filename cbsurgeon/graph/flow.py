"""One pass over a graph that follows every axis of every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, fx

from cbsurgeon.graph import ops
from cbsurgeon.graph.axes import BATCH, AxisTable, Dim, Dims, Factor, extent
from cbsurgeon.graph.axis_pointwise import like_inputs
from cbsurgeon.graph.axis_rules import RULES, split


class Flow:
    """One forward pass over a graph that fills an :class:`AxisTable`.

    Args:
        graph: the graph of an exported program.
        inputs: names of the placeholders that take the user's tensors.
        batch_axes: input name → batch axis, for programs whose batch is a plain number.
    """

    def __init__(self, graph: fx.Graph, inputs: Sequence[str], batch_axes: dict[str, int]) -> None:
        self.table = AxisTable()
        self.inputs = frozenset(inputs)
        self.batch_axes = batch_axes
        self.depends: set[fx.Node] = set()
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        self.projections: dict[fx.Node, tuple[fx.Node, fx.Node, Dim]] = {}
        """Projection node → (activation it reads, its weight, the dimension it contracts)."""
        for node in graph.nodes:
            self._visit(node)

    def of(self, node: fx.Node) -> Dims:
        """Factors of a node's dimensions."""
        return self.table.dims[node]

    def is_activation(self, node: fx.Node) -> bool:
        """Whether the node's values depend on the user's inputs."""
        return node in self.depends

    def _visit(self, node: fx.Node) -> None:
        val = node.meta.get("val")
        if node.op == "placeholder" and isinstance(val, Tensor):
            self._placeholder(node)
            return
        if node.op != "call_function":
            return
        if any(source in self.depends for source in ops.tensors(node)):
            self.depends.add(node)
        if isinstance(val, Tensor):
            self.table.dims[node] = self._checked(node, self._apply(node))
        elif isinstance(val, list | tuple):
            self.table.parts[node] = split(self, node, val)

    def _placeholder(self, node: fx.Node) -> None:
        given = node.name in self.inputs
        dims = [self.table.fresh(size, given=given) for size in self.table.sizes(node)]
        if given:
            self.depends.add(node)
            axis = self.batch_axes.get(node.name)
            if axis is not None and not self.table.holds_batch(dims[axis]):
                dims[axis] = (Factor(extent(dims[axis]), BATCH),)
        self.table.dims[node] = tuple(dims)

    def _apply(self, node: fx.Node) -> Dims:
        name = ops.name(node)
        rule = RULES.get(name)
        if rule is not None and all(source in self.table.dims for source in ops.tensors(node)[:1]):
            return rule(self, node)
        if name == "getitem":
            source = cast(fx.Node, node.args[0])
            index = cast(int, node.args[1])
            parts = self.table.parts.get(source)
            if parts is not None and index < len(parts):
                return parts[index]
        return like_inputs(self, node)

    def _checked(self, node: fx.Node, dims: Dims) -> Dims:
        """A rule that lost count of a dimension gets a fresh one instead."""
        sizes = self.table.sizes(node)
        if len(dims) != len(sizes):
            return tuple(self.table.fresh(size) for size in sizes)
        return tuple(
            dim if extent(dim) == size else self.table.fresh(size) for dim, size in zip(dims, sizes, strict=True)
        )

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """Tensor inputs whose dimensions are known."""
        return [source for source in ops.tensors(node) if source in self.table.dims]
