"""Recognise mixtures of experts: dense ones by the weighted sum over experts, routed ones by the choice of tokens."""

from __future__ import annotations

from collections.abc import Container

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH
from cbsurgeon.graph.branches.branch import Branch

UNAVAILABLE = {
    "front": "its experts share their input with the router, which chooses among them by it",
    "mid": "its hidden units belong to several experts",
}
"""Position → why it does not exist in a mixture of experts."""


def weighted_sum(flow: Flow, branch: Branch) -> fx.Node | None:
    """Return the sum over experts between a branch's down projection and its residual add, or ``None``.

    It removes an axis that came from the projections' weights, and keeps all axes of the stream.
    """
    node, stream = branch.blocked_by, branch.stream
    if node is None or stream is None or node not in flow.table.dims or branch.between.attention:
        return None
    if aten.name(node) not in aten.MATMUL | {"sum"} or not (branch.between.activation or branch.between.gate):
        return None

    def axes(one: fx.Node) -> set[int]:
        return set().union(*(flow.table.axes(dim) for dim in flow.of(one)))

    experts = axes(branch.last.output) - axes(node)
    own = axes(stream)
    if not experts or experts & (own | {BATCH}) or not own <= axes(node) | experts:
        return None
    return node


def end_of(node: fx.Node, total: fx.Node) -> fx.Node:
    """Return the sum over experts, or the dropout that follows it."""
    value = node
    while len(node.users) == 1 and total not in node.users:
        (node,) = node.users
        if aten.name(node) in aten.DROPOUT:
            value = node
        elif aten.name(node) not in aten.LAYOUT:
            break
    return value


ROUTING = frozenset(
    "topk argmax argsort sort one_hot nonzero bincount scatter scatter_add scatter_reduce index_add index_copy "
    "index_put index_reduce masked_scatter".split()
)
"""Operators that decide by values which tokens are multiplied with which weights."""

_FAR = 400


def routing(flow: Flow, term: fx.Node, streams: Container[fx.Node]) -> tuple[fx.Node, bool] | None:
    """Return the node that may route tokens of a stream to experts, upstream of one operand of a sum, and whether the
    graph chooses tokens by values; or ``None``.

    The node is one of :data:`ROUTING`, which choose by values, or a product with several weight matrices. There must
    also be a non-linearity, and the walk upstream must reach the stream.
    """
    queue, seen = [term], set[fx.Node]()
    chosen: fx.Node | None = None
    bent = touched = routed = False
    while queue and len(seen) < _FAR:
        node = queue.pop()
        touched |= node in streams
        if node in seen or node in streams or not flow.is_activation(node):
            continue
        seen.add(node)
        name = aten.name(node)
        bent |= name in aten.NONLINEAR
        routed |= name in ROUTING or _picks_weights(flow, node)
        if name in ROUTING or (name in aten.MATMUL and _has_expert_weights(flow, node)):
            chosen = chosen or node
        queue += aten.tensors(node)
    return (chosen, routed) if chosen is not None and bent and touched else None


def _picks_weights(flow: Flow, node: fx.Node) -> bool:
    """Whether a node takes rows of weights that are chosen by values."""
    if aten.name(node) not in ("index", "index_select", "gather"):
        return False
    table, *chosen = aten.tensors(node)
    return not flow.is_activation(table) and any(flow.is_activation(one) for one in chosen)


def _has_expert_weights(flow: Flow, node: fx.Node) -> bool:
    """Whether a product takes weights with more than two axes, or rows of such weights that are chosen by values."""
    for source in aten.tensors(node):
        while aten.name(source) in aten.LAYOUT | {"index", "index_select", "gather"}:
            source = aten.tensors(source)[0]
        given = source.op == "placeholder" and source.name not in flow.inputs and source in flow.table.dims
        if given and len(flow.of(source)) > 2:
            return True
    return False


def are_experts(flow: Flow, found: list[Branch]) -> bool:
    """Whether branches that are added up are experts: each is multiplied by a computed number per token."""
    return len(found) > 1 and all(_weighted_per_token(flow, branch) for branch in found)


def _weighted_per_token(flow: Flow, branch: Branch) -> bool:
    for node in branch.tail:
        live = [source for source in aten.tensors(node) if flow.is_activation(source)]
        if aten.name(node) == "mul" and len(live) == 2 and all(source in flow.table.dims for source in live):
            sizes = [flow.table.sizes(source) for source in live]
            if any(size[-1:] == (1,) and size[:-1] == flow.table.sizes(node)[:-1] for size in sizes):
                return True
    return False
