"""One attention map of a graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import fx


class Place(NamedTuple):
    """An axis of a tensor."""

    node: fx.Node
    axis: int


@dataclass(frozen=True)
class Map:
    """One attention in a graph.

    Attributes:
        node: the softmax or the fused attention.
        fused: it is a fused attention, whose weights no tensor of the graph holds.
        weights: the tensor with the weights, before heads are mixed; for a fused attention its queries.
        mixed: the tensor with the weights that the values are multiplied with, if heads were mixed before, and the axes
            of queries and keys in it.
        product: weights times values; the fused attention itself.
        lead: axes of ``weights`` other than queries and keys (batch, windows, heads), in order.
        query, key: the axes of queries and keys in ``weights``; for a fused attention in its first two operands.
        asking, asked: the tensors of queries and of keys, each with its position axis.
        scores: queries times keys; ``None`` in a fused attention.
        before: the nodes from ``scores`` to the softmax's input, both included.
        way: the nodes from the softmax to ``weights``, both included.
        talking: where a projection mixes heads.
    """

    node: fx.Node
    fused: bool
    weights: fx.Node
    mixed: tuple[fx.Node, int, int] | None
    product: fx.Node
    lead: tuple[int, ...]
    query: int
    key: int
    asking: Place
    asked: Place
    scores: fx.Node | None = None
    before: tuple[fx.Node, ...] = ()
    way: tuple[fx.Node, ...] = ()
    talking: Literal["", "scores", "weights", "both"] = ""

    @property
    def after_mixing(self) -> Map:
        """The same attention with the weights after heads are mixed; itself if heads are not mixed."""
        if self.mixed is None:
            return self
        node, query, key = self.mixed
        rank = len(self.lead) + 2
        lead = tuple(place for place in range(rank) if place not in (query, key))
        return replace(self, weights=node, lead=lead, query=query, key=key, way=())

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes whose common module is the module of the attention."""
        return [node for node in (self.scores, self.node, self.product) if node is not None]
