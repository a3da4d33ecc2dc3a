"""Find projections: linear maps of one axis by a parameter, with their bias, batch norm or low-rank update."""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim
from cbsurgeon.graph.branches.steps import chain, operands, step


@dataclass(frozen=True)
class Projection:
    """A linear map of one axis.

    Attributes:
        core: the operator that contracts (``linear``, ``addmm``, ``conv2d`` ...).
        source: the activation it reads.
        readers: the nodes that read ``source`` (two for a projection with a low-rank update).
        output: its result, with bias, batch norm and low-rank update.
        contracted: the dimension it contracts.
        spatial: it is a convolution wider than one position.
        convolution: it is a convolution.
    """

    core: fx.Node
    source: fx.Node
    readers: tuple[fx.Node, ...]
    output: fx.Node
    contracted: Dim
    spatial: bool = False
    convolution: bool = False


class Projections:
    """The projection that each node of a graph is the result of, if any; computed once, in graph order."""

    def __init__(self, flow: Flow) -> None:
        self._known: dict[fx.Node, Projection | None] = {}
        for node in flow.order:
            self._known[node] = _find(flow, self, node)

    def __call__(self, node: fx.Node) -> Projection | None:
        """Return the projection whose result ``node`` is, or ``None``."""
        return self._known[node]


def projection(flow: Flow, node: fx.Node) -> Projection | None:
    """Return the projection whose result ``node`` is, or ``None``."""
    table = _TABLES.get(flow)
    if table is None:
        table = _TABLES[flow] = Projections(flow)
    return table(node)


_TABLES: WeakKeyDictionary[Flow, Projections] = WeakKeyDictionary()


def _find(flow: Flow, known: Projections, node: fx.Node) -> Projection | None:
    if node in flow.projections:
        source, weight, contracted = flow.projections[node]
        if aten.name(node) in aten.CONVOLUTION:
            spatial = any(size > 1 for size in flow.table.sizes(weight)[2:])
            return Projection(node, source, (node,), node, contracted, spatial, True)
        return Projection(node, source, (node,), node, contracted)
    name = aten.name(node)
    if name == "batch_norm":
        return _under(known, node, aten.tensors(node)[0])
    if name == "add":
        if len(operands(flow, node)) == 2:
            return _low_rank(flow, known, node)
        live = [source for source in aten.tensors(node) if flow.is_activation(source)]
        rest = [source for source in flow.sources(node) if source not in live]
        if len(live) == 1 and rest and sum(bool(dim) for dim in flow.of(rest[0])) == 1:
            return _under(known, node, live[0])
    return None


def _under(known: Projections, node: fx.Node, source: fx.Node) -> Projection | None:
    """The projection before a bias or batch norm, with only layout steps in between and no other readers."""
    current = source
    while aten.name(current) in aten.LAYOUT and len(_readers(current)) == 1:
        current = aten.tensors(current)[0]
    if len(_readers(current)) != 1:
        return None
    found = known(current)
    return replace(found, output=node) if found is not None else None


def _readers(node: fx.Node) -> list[fx.Node]:
    """The users that read a tensor's values, not only its shape."""
    return [user for user in node.users if not (aten.name(user).endswith("_as") and user.args[0] is not node)]


def _low_rank(flow: Flow, known: Projections, node: fx.Node) -> Projection | None:
    """The projection of ``W x + s * B(A(dropout(x)))``: a frozen projection with a linear low-rank update (LoRA)."""
    first, second = operands(flow, node)
    for base_end, update_end in ((first, second), (second, first)):
        base = known(_past_scale(flow, base_end))
        update = known(_past_scale(flow, update_end))
        if base is None or update is None or update.core not in flow.projections:
            continue
        down = known(_past_scale(flow, update.source))
        if down is None:
            continue
        path = chain(flow, down.source)
        if base.source in path and _plain(flow, path[: path.index(base.source)]):
            entry = path[path.index(base.source) - 1] if base.source is not down.source else down.core
            return replace(base, readers=(base.core, entry), output=node)
    return None


def _past_scale(flow: Flow, node: fx.Node) -> fx.Node:
    """Walk back over constants, dropout and layout."""
    while node not in flow.projections:
        up = step(flow, node)
        if up is None or up.kind not in ("scale", "dropout", "layout"):
            break
        node = up.source
    return node


def _plain(flow: Flow, nodes: list[fx.Node]) -> bool:
    return all((up := step(flow, node)) is not None and up.kind in ("scale", "dropout", "layout") for node in nodes)
