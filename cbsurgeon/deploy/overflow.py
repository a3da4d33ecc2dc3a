"""Finding tensors of a model that exceed the range of a 16-bit type, by running it in float32."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from cbsurgeon.graph import Program, aten
from cbsurgeon.graph.capture.execution import flat_inputs
from cbsurgeon.graph.capture.writing import writes

# A power of two, so that scaling is exact. Large enough that a float16 sum over a few hundred tokens overflows unless
# it accumulates in float32; small enough that a correct float16 model does not overflow.
LARGE_MAGNITUDE = 64.0

# An operator whose attention scores are internal.
ATTENTION = "scaled_dot_product_attention"
_SOFTMAX = {"softmax", "_softmax", "log_softmax", "exp"}
_TOWARDS_SOFTMAX = aten.LAYOUT | aten.CROP | {"add", "sub", "mul", "where", "masked_fill", "to", "_to_copy", "type_as"}


@dataclass(frozen=True)
class Overflow:
    """A tensor that a 16-bit type cannot hold.

    Attributes:
        node: name of the node that computes it.
        path: module path of the node, empty at the top level.
        operator: name of the node's operator, such as ``linear``; ``weight or input`` for a placeholder.
        largest: its largest absolute value in float32; for ``scaled_dot_product_attention``, that of its scores.
    """

    node: str
    path: str
    operator: str
    largest: float

    def __str__(self) -> str:
        return f"node {self.node} ({self.operator})" + (f", in {self.path}" if self.path else "")


def overflows(program: Program, inputs: Mapping[str, Tensor], limit: float, among: Collection[str]) -> list[Overflow]:
    """Run a program and return the tensors whose finite values exceed a limit, in graph order.

    Args:
        program: a float32 program.
        inputs: input name → tensor.
        limit: the largest absolute value allowed.
        among: names of the nodes to look at.
    """
    meter = _Meter(program.exported.graph_module, _only_into_softmax(program.exported.graph_module.graph))
    with torch.no_grad():
        meter.run(*flat_inputs(program, inputs))
    return [
        Overflow(node.name, _path(node), aten.name(node) or "weight or input", meter.largest[node.name])
        for node in program.exported.graph.nodes
        if node.name in among and meter.largest.get(node.name, 0.0) > limit
    ]


def _path(node: fx.Node) -> str:
    """Return the module path of a node; for a weight, that of the first node that reads it."""
    return aten.path(next(iter(node.users), node) if node.op == "placeholder" else node)


def enlarged(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply floating inputs by a large factor; integers and values between 0 and 1 (masks, boxes) are unchanged."""
    return {name: _enlarged(tensor) for name, tensor in inputs.items()}


def _enlarged(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel() or (float(tensor.min()) >= 0 and float(tensor.max()) <= 1):
        return tensor
    return tensor * LARGE_MAGNITUDE


def of_type(program: Program, dtype: torch.dtype) -> frozenset[str]:
    """Return the names of the nodes whose values have a dtype."""
    return frozenset(
        node.name
        for node in program.exported.graph.nodes
        if any(isinstance(leaf, Tensor) and leaf.dtype == dtype for leaf in pytree.tree_leaves(node.meta.get("val")))
    )


def with_readers(program: Program, names: Iterable[str]) -> frozenset[str]:
    """Return nodes and their readers: all of them must compute in float32 to keep the nodes' values."""
    chosen = set(names)
    nodes = list(program.exported.graph.nodes)
    chosen |= {user.name for node in nodes if node.name in chosen for user in node.users}
    return whole_chains(nodes, chosen)


def whole_chains(nodes: Sequence[fx.Node], names: Iterable[str]) -> frozenset[str]:
    """Return nodes and those connected to them by in-place writes, because one tensor has one dtype."""
    chosen, before = set(names), -1
    while len(chosen) != before:
        before = len(chosen)
        for node in nodes:
            if writes(node) and isinstance(node.args[0], fx.Node) and chosen & {node.name, node.args[0].name}:
                chosen |= {node.name, node.args[0].name}
    return frozenset(chosen)


def _only_into_softmax(graph: fx.Graph) -> frozenset[str]:
    """Return the names of masks and masked scores: nodes whose values only reach a softmax."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.users and all(_is_softmax(user, node) or _leads_on(user, found) for user in node.users):
            found.add(node.name)
    return frozenset(found)


def _is_softmax(reader: fx.Node, node: fx.Node) -> bool:
    mask = reader.args[3] if len(reader.args) > 3 else reader.kwargs.get("attn_mask")
    return aten.name(reader) in _SOFTMAX or (aten.name(reader) == ATTENTION and mask is node)


def _leads_on(reader: fx.Node, found: set[str]) -> bool:
    return reader.name in found and aten.name(reader) in _TOWARDS_SOFTMAX


class _Meter(fx.Interpreter):
    """Runs a graph and records the largest finite magnitude of every tensor.

    For masks and masked scores, only positive values count: minus infinity is a probability of zero.
    """

    def __init__(self, module: fx.GraphModule, scores: frozenset[str]) -> None:
        super().__init__(module)
        self.scores, self.largest = scores, dict[str, float]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        found = [_magnitude(leaf, n.name in self.scores) for leaf in pytree.tree_leaves(result)]
        if aten.name(n) == ATTENTION:
            found.append(self._largest_score(n))
        self.largest[n.name] = max(found, default=0.0)
        return result

    def _largest_score(self, node: fx.Node) -> float:
        """Return the largest score before the softmax; in an exported graph the scores are a separate tensor."""
        query, key = (self.env[node.args[index]].float() for index in (0, 1))  # type: ignore[index]
        scale = aten.argument(node, 6, "scale", None)
        factor = float(scale) if isinstance(scale, (int, float)) else 1.0 / math.sqrt(max(query.shape[-1], 1))
        bound = factor * float(query.norm(dim=-1).amax()) * float(key.norm(dim=-1).amax()) if query.numel() else 0.0
        if bound <= torch.finfo(torch.float16).max or not key.numel():
            return 0.0
        heads = query.shape[-3] // key.shape[-3] if query.dim() > 3 else 1
        return float((factor * query @ key.repeat_interleave(heads, -3).transpose(-1, -2)).max())


def _magnitude(value: Any, positive: bool) -> float:
    """Return the largest finite absolute value, or the largest positive one."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return 0.0
    value = value if positive else value.abs()
    largest = float(value.amax())
    return largest if math.isfinite(largest) else float(torch.where(torch.isfinite(value), value, 0.0).amax())
