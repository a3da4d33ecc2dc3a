"""Taps: blocks whose stream is also a feature map that leaves the model beside the blocks after it.

Section 4.4 of the paper puts no CB into a block whose features go to a feature pyramid: what is read there by a
decoder would carry the mean of all tokens.
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
"""Steps after which a stream is still that stream; a pooling (one position left) is a ``scale`` and ends it below."""


def tapped(reading: Reading) -> frozenset[fx.Node]:
    """The additions that end a block whose stream is tapped.

    Two ways to be: norm and layout steps alone lead from it to an output of the graph; or some other way leads to an
    output that passes none of the later blocks, while there are later blocks (a lateral connection to a pyramid or a
    decoder). What is pooled, or cropped to one token, on its way (a classifier) is no feature map. The attention in
    front of a tapped MLP belongs to the same block of the paper and is tapped with it.
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
    """Whether an output is reached past every later block, and a later block is reached at all."""
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
    """Several positions, each with several values; a list of tensors (the result of a split) counts as one."""
    if not flow.is_activation(node):
        return False
    if aten.value(node) is None:
        return node in flow.table.parts
    return sum(extent(factor for factor in dim if factor.axis != BATCH) > 1 for dim in flow.of(node)) >= 2
