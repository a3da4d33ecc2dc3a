"""The state of axis tracking: the axes of every tensor, filled in by the axis rules from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.table import AxisTable, Dim, Dims


class Flow:
    """The axes of every tensor of a graph, filled in by :func:`cbsurgeon.graph.axes.tracking.follow`.

    Args:
        graph: the graph of an exported program.
        inputs: names of the placeholders that take the user's tensors.
        batch_axes: input name → batch axis, for programs whose batch is a plain number.

    Attributes:
        table: the factors of every dimension.
        depends: the nodes whose values depend on the user's inputs.
        order: the position of each node in the graph.
        projections: projection node → (activation it reads, its weight, the dimension it contracts).
        mixtures: node that mixes copies of a stream by weights (hyper-connections) → the activation it mixes.
    """

    def __init__(self, graph: fx.Graph, inputs: Sequence[str], batch_axes: Mapping[str, int]) -> None:
        self.table = AxisTable()
        self.inputs = frozenset(inputs)
        self.batch_axes = batch_axes
        self.depends: set[fx.Node] = set()
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        self.projections: dict[fx.Node, tuple[fx.Node, fx.Node, Dim]] = {}
        self.mixtures: dict[fx.Node, fx.Node] = {}

    def of(self, node: fx.Node) -> Dims:
        """Return the factors of a node's dimensions."""
        return self.table.dims[node]

    def is_activation(self, node: fx.Node) -> bool:
        """Whether the node's values depend on the user's inputs."""
        return node in self.depends

    def plain(self, dim: Dim) -> Dim:
        """Return a dimension with representative axis identities, so that equal dimensions compare equal."""
        return tuple(factor._replace(axis=self.table.root(factor.axis)) for factor in dim)

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """Return the tensor inputs of a node whose dimensions are known."""
        return [source for source in aten.tensors(node) if source in self.table.dims]
