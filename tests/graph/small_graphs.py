"""Graphs of a few nodes, and the axes of their tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.tracking import follow

B, N, C = 2, 5, 8
"""Samples, tokens and channels."""


class Held(nn.Module):
    """A function of a tensor, with parameters that it takes by name."""

    def __init__(self, forward: Callable[..., Tensor], **parameters: tuple[int, ...]) -> None:
        super().__init__()
        self.function = forward
        self.names = tuple(parameters)
        for name, shape in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, name) for name in self.names))


def read(forward: Callable[..., Tensor], **parameters: tuple[int, ...]) -> tuple[Flow, list[fx.Node]]:
    """Return the axes of a function's graph, and its nodes: the input first, then the computed ones."""
    exported = torch.export.export(
        Held(forward, **parameters).eval(), (torch.randn(B, N, C),), dynamic_shapes=({0: Dim.DYNAMIC},)
    )
    (given,) = exported.graph_signature.user_inputs
    flow = follow(exported.graph, [str(given)], {})
    nodes = [node for node in exported.graph.nodes if node.name == given or node.op == "call_function"]
    return flow, [node for node in nodes if aten.value(node) is not None]


def axes(flow: Flow, node: fx.Node) -> list[set[int]]:
    return [set(flow.table.axes(dim)) for dim in flow.of(node)]
