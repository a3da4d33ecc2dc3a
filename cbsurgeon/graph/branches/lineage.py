"""Find which residual stream a tensor belongs to, and what was added to that stream before."""

from __future__ import annotations

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import extent
from cbsurgeon.graph.branches.steps import is_spatial, operands, step

_FAR = 4000


class Lineage:
    """The additions that carry residual streams through a graph.

    Attributes:
        totals: addition → kinds of the blocks it adds.
        mixers: additions that add a token mixer which is not a block (pooling, depthwise convolution ...).
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.totals: dict[fx.Node, set[str]] = {}
        self.mixers: set[fx.Node] = set()
        self._streams: dict[fx.Node, fx.Node] = {}

    def add(self, total: fx.Node, kind: str, stream: fx.Node | None) -> None:
        """Record a block: its residual add and the stream that it reads."""
        self.totals.setdefault(total, set()).add(kind)
        if stream is not None:
            self._streams[total] = stream

    def follows_mixer(self, stream: fx.Node) -> bool:
        """Whether the last block before this point of a stream mixes its tokens."""
        node: fx.Node | None = stream
        for _ in range(_FAR):
            if node is None or node in self._flow.projections:
                return False
            if node in self.totals:
                return bool(self.totals[node] & {"attention", "token-mlp"})
            if node in self.mixers or is_spatial(self._flow, node):
                return True
            node = self.upstream(node)
        return False

    def origin(self, stream: fx.Node) -> fx.Node:
        """Return the residual add of the last block upstream, through changes of width and resolution. If there is
        none, the first embedding or projection of the stream, so that two towers on one input are two streams."""
        node: fx.Node | None = stream
        begin, reached = None, stream
        for _ in range(_FAR):
            if node is None:
                break
            if node in self.totals:
                return node
            reached = node
            if node in self._flow.projections or aten.name(node) == "embedding":
                begin = node
            node = self.upstream(node)
        return begin or reached

    def before(self, total: fx.Node) -> fx.Node | None:
        """Return the stream that a known residual add was computed from."""
        return self._streams.get(total)

    def upstream(self, node: fx.Node) -> fx.Node | None:
        """Return the input that carries the stream: the full-sized or largest one, or the query of an attention."""
        flow = self._flow
        if node in flow.projections:
            return flow.projections[node][0]
        taken = step(flow, node)
        name = aten.name(node)
        if taken is not None:
            return None if taken.kind == "scale" and self._constant_stream(node, taken.source) else taken.source
        live = [source for source in aten.tensors(node) if flow.is_activation(source)]
        if not live:
            return None
        if name in aten.MATMUL or name == "scaled_dot_product_attention":
            first = aten.tensors(node)[0]
            return first if flow.is_activation(first) else None
        candidates = operands(flow, node) or live
        known = [source for source in candidates if source in flow.table.dims]
        if not known:
            return live[0]
        return max(known, key=lambda source: _positions(flow, source))

    def _constant_stream(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether a node is ``queries + attention(...)`` with constant queries, so that the stream starts here."""
        if aten.name(node) != "add" or not self._from_attention(source):
            return False
        sizes = self._flow.table.sizes(node)
        return any(
            other is not source and not self._flow.is_activation(other) and self._flow.table.sizes(other) == sizes
            for other in aten.tensors(node)
            if aten.value(other) is not None
        )

    def _from_attention(self, node: fx.Node) -> bool:
        """Whether a tensor is the result of an attention, and not a stream to which position embeddings are added."""
        flow = self._flow
        for _ in range(16):
            live = [source for source in aten.tensors(node) if flow.is_activation(source)]
            if aten.name(node) in aten.ATTENTION or (aten.name(node) in aten.MATMUL and len(live) == 2):
                return True
            if not live or node in self.totals:
                return False
            node = live[0]
        return False


def _positions(flow: Flow, node: fx.Node) -> int:
    total = 1
    for dim in flow.of(node):
        total *= extent(dim)
    return total
