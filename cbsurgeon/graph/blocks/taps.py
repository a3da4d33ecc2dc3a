"""Find the tapped blocks: the residual stream after such a block is also an output of the model, as a feature map.

Section 4.4 of the paper does not insert CB into a block whose features go to a feature pyramid, because its decoder
would then read the mean of all tokens.
"""

from __future__ import annotations

from collections.abc import Container

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import BATCH, extent
from cbsurgeon.graph.blocks.reading import Reading
from cbsurgeon.graph.branches.steps import chain, step

KEEPS = frozenset({"layout", "crop", "dropout", "norm", "scale"})
"""Steps that keep a residual stream. A global pooling is a ``scale`` too; :func:`_is_map` ends the walk there."""


def tapped(reading: Reading) -> frozenset[fx.Node]:
    """Return the residual adds of the blocks that are tapped.

    A block is tapped if only norms and layout steps lead from it to an output; or if it has later blocks and some path
    to an output passes none of them (a lateral connection to a pyramid or a decoder). A path that pools or crops to one
    token (a classifier) does not count. The attention before a tapped MLP is tapped as well, because the paper counts
    both as one block.
    """
    flow = reading.flow
    totals = {found.branch.total for found in reading.found} | set(reading.lineage.totals)
    found = {total for total in totals if _is_output(flow, total) or _bypasses(flow, total, totals - {total})}
    attention = {block.branch.total for block in reading.found if block.kind == "attention"}
    for block in reading.found:
        if block.kind != "attention" and block.branch.total in found and block.branch.stream is not None:
            found |= attention.intersection(chain(flow, block.branch.stream))
    return frozenset(found)


def _is_output(flow: Flow, total: fx.Node) -> bool:
    queue, seen = [total], {total}
    while queue:
        node = queue.pop()
        for user in node.users:
            if user.op == "output":
                return True
            if user in seen or not _is_map(flow, user):
                continue
            taken = step(flow, user)
            if taken is not None and taken.kind in KEEPS and taken.source is node:
                seen.add(user)
                queue.append(user)
    return False


def _bypasses(flow: Flow, total: fx.Node, later: Container[fx.Node]) -> bool:
    """Whether there are later blocks, and a path to an output that passes none of them."""
    queue, seen = [total], {total}
    followed = leaves = False
    while queue:
        node = queue.pop()
        for user in node.users:
            if user in later:
                followed = True
            elif user.op == "output":
                leaves = True
            elif user not in seen and _is_map(flow, user):
                seen.add(user)
                queue.append(user)
    return followed and leaves


def _is_map(flow: Flow, node: fx.Node) -> bool:
    """Whether a node is a feature map: several positions, each with several values. A list of tensors counts as one."""
    if not flow.is_activation(node):
        return False
    if aten.value(node) is None:
        return node in flow.table.parts
    return sum(extent(factor for factor in dim if factor.axis != BATCH) > 1 for dim in flow.of(node)) >= 2
