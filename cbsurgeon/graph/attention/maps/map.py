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
        fused: it is a fused attention, whose weights are in no tensor.
        weights: the tensor with the weights, before heads are mixed; for a fused attention its queries.
        mixed: the tensor with the weights that the values are multiplied with, if heads were mixed before, and the axes
            of queries and keys in it.
        product: weights times values; the fused attention itself.
        lead: axes of ``weights`` before queries and keys are counted (batch, windows, heads), in order.
        query, key: the axes of queries and keys in ``weights``; for a fused attention in its first two operands.
        asking, asked: the tensors that are compared, with the axis of their positions: queries and keys.
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
        """The same attention with the weights after heads are mixed; itself where they are not."""
        if self.mixed is None:
            return self
        node, query, key = self.mixed
        rank = len(self.lead) + 2
        lead = tuple(place for place in range(rank) if place not in (query, key))
        return replace(self, weights=node, lead=lead, query=query, key=key, way=())

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes that tell which module the attention belongs to."""
        return [node for node in (self.scores, self.node, self.product) if node is not None]
