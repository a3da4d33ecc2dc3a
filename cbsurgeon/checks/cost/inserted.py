"""Finding the nodes of inserted operators in a graph, and their cost by the operators' formulas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from torch import fx, nn
from torch.export import ExportedProgram

from cbsurgeon.checks.cost.counts import Inserted, Tally
from cbsurgeon.checks.cost.nodes import NodeCost, Sizes, batch_symbols
from cbsurgeon.checks.cost.rules import KERNELS
from cbsurgeon.graph.occupants import membership
from cbsurgeon.models.model import Model
from cbsurgeon.operators import Operator, Traffic
from cbsurgeon.operators.registry import classes


@dataclass(frozen=True)
class Group:
    """The nodes of one inserted operator.

    Attributes:
        path: module path of the operator.
        kind: its class.
        nodes: names of its nodes, in graph order.
        calls: how often it runs in one forward pass.
        tokens, channels: size of its input tensor for one image.
        parameters: number of its trainable values.
        itemsize: bytes of one element.
        options: the options it was created with.
        as_exported: whether the nodes are those of an exported file. Its operators may be folded, so the formula does
            not apply.
    """

    path: str
    kind: type[Operator]
    nodes: tuple[str, ...]
    calls: int
    tokens: int
    channels: int
    parameters: int
    itemsize: int
    options: Mapping[str, Any] = field(default_factory=dict)
    as_exported: bool = False

    def inserted(self, costs: list[NodeCost], batch: int) -> Inserted:
        """Return its cost: arithmetic by its formula if it has one, unfused bytes by its nodes."""
        names = set(self.nodes)
        own = [cost for cost in costs if cost.name in names]
        moved = sum(cost.bytes for cost in own)
        if self.as_exported:
            return self._counted(own, moved, batch, "folded", "as exported, counted node by node")
        try:
            closed = self.kind.cost(self.tokens, self.channels, **self.options)
        except NotImplementedError:
            return self._counted(own, moved, batch, "line", "no formula, counted node by node")
        flops, operations = (count * batch * self.calls for count in (closed.paper, closed.flops))
        item = Inserted(
            self.path,
            self.kind.name,
            self.tokens,
            self.channels,
            self.calls,
            Tally(self.parameters, flops, operations, moved),
            closed.formula,
            closed.traffic,
        )
        fused = item.in_form("folded").moved(batch) * self.calls * self.itemsize
        return replace(item, tally=replace(item.tally, bytes_fused=fused))

    def _counted(self, own: list[NodeCost], moved: int, batch: int, form: str, formula: str) -> Inserted:
        """Return the cost as the sum over its nodes."""
        tally = Tally(
            self.parameters,
            sum(cost.flops for cost in own),
            sum(cost.operations for cost in own),
            moved,
            sum(fused_bytes(cost) for cost in own),
        )
        kernels = sum(cost.kind == "counted" for cost in own) // self.calls
        only = Traffic(form, kernels, moved // (batch * self.calls * self.itemsize))
        return Inserted(self.path, self.kind.name, self.tokens, self.channels, self.calls, tally, formula, (only,))


def fused_bytes(cost: NodeCost) -> int:
    """Return the bytes of a node if pointwise operators are fused: only products, norms and reductions count."""
    return cost.bytes if cost.operator in KERNELS else 0


def groups(model: Model, exported: ExportedProgram) -> tuple[Group, ...]:
    """Return the inserted operators of a program, in graph order.

    An operator that is called several times is one group (see :func:`cbsurgeon.graph.occupants.membership`).
    """
    known = classes()
    members: dict[tuple[str, type[Operator]], list[fx.Node]] = defaultdict(list)
    for node in exported.graph_module.graph.nodes:
        one = membership(node, known)
        if one is not None and one.kind is not None:
            members[one.path, one.kind].append(node)
    sizes = Sizes(batch_symbols(exported.graph_module.graph, 1))
    return tuple(_group(model, path, kind, nodes, sizes) for (path, kind), nodes in members.items())


def _group(model: Model, path: str, kind: type[Operator], nodes: list[fx.Node], sizes: Sizes) -> Group:
    inside = set(nodes)
    exits = [node for node in nodes if any(user not in inside for user in node.users)]
    result = exits[-1].meta["val"]
    module = _module_at(model, path)
    split = module.unfolding is not None if module is not None else bool(_mark(nodes).get("unfold"))
    shape = sizes.shape(nodes[0].meta["val"] if split else result)  # with an unfolding, the first node splits an axis
    token_axes, channel_axis = _axes(module, nodes, len(shape))
    tokens = prod(shape[axis] for axis in token_axes)
    own = sum(parameter.numel() for parameter in module.parameters()) if module is not None else _vectors(nodes)
    names = tuple(node.name for node in nodes)
    return Group(
        path,
        kind,
        names,
        len(exits),
        tokens,
        shape[channel_axis],
        own,
        result.element_size(),
        _options(module, nodes),
    )


def _options(module: Operator | None, nodes: list[fx.Node]) -> Mapping[str, Any]:
    """Return the options it was created with, from the module or else from the mark on its nodes."""
    if module is not None:
        return module.options()
    return dict(_mark(nodes).get("options", {}))


def _mark(nodes: list[fx.Node]) -> Mapping[str, Any]:
    """Return the mark (metadata) written on its nodes when they were inserted into a program."""
    return next((one.mark for node in nodes if (one := membership(node)) is not None), {})


def _module_at(model: Model, path: str) -> Operator | None:
    found: nn.Module | None = model.module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Operator) else None


def _axes(module: Operator | None, nodes: list[fx.Node], rank: int) -> tuple[tuple[int, ...], int]:
    """Return token axes and channel axis, from the module, the mark on its nodes, or else its token mean."""
    if module is not None:
        return module.token_axes, module.channel_axis
    mark = _mark(nodes)
    if "token_axes" in mark:
        return tuple(mark["token_axes"]), int(mark["channel_axis"])
    for node in nodes:
        dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if getattr(node.target, "_schema", None) and node.target._schema.name in ("aten::mean", "aten::sum"):  # type: ignore[union-attr]
            token_axes = tuple(axis % rank for axis in dims)
            return token_axes, next(axis for axis in range(rank - 1, 0, -1) if axis not in token_axes)
    return tuple(range(1, rank - 1)), rank - 1


def _vectors(nodes: list[fx.Node]) -> int:
    """Return the number of values of parameters that only these nodes read."""
    inside = set(nodes)
    own = {source for node in nodes for source in node.all_input_nodes if source.op == "placeholder"}
    return sum(prod(source.meta["val"].shape) for source in own if set(source.users) <= inside)
