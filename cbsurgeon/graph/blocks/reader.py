"""Read a captured program: find its residual branches, and decide whether each is a block, with a reason if not."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.roles import channel_axis, roles_where_shared
from cbsurgeon.graph.axes.table import BATCH
from cbsurgeon.graph.axes.tracking import follow
from cbsurgeon.graph.block import Kind, Rejected, Site
from cbsurgeon.graph.blocks.near_misses import (
    reject_routed,
    reject_the_rest,
    rejected,
    shape_problem,
    tokenless,
    touches,
)
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.branches import experts, sites, steps
from cbsurgeon.graph.branches.body import is_pooled
from cbsurgeon.graph.branches.branch import Branch, branches, mixes_tokens
from cbsurgeon.graph.branches.modules import ModuleCalls
from cbsurgeon.graph.branches.steps import chain, is_spatial, operands
from cbsurgeon.graph.capture.regions import unread, user_line
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reasons import Reason

_NESTED = 200
"""How many steps upstream the outer stream of a nested residual is searched for."""


def read(program: Program) -> Reading:
    """Find every residual branch of a program and classify it. The graph is not changed."""
    graph = program.exported.graph
    flow = follow(graph, program.input_names, dict(program.batch_axes) or dict.fromkeys(program.input_names, 0))
    reading = Reading(flow, ModuleCalls(flow, graph))
    claimed: set[fx.Node] = set()
    for node in graph.nodes:
        if operands(flow, node) and not steps.is_difference(flow, node):
            _read_sum(reading, node, claimed)
    reading.found.sort(key=lambda found: flow.order[found.branch.last.core])
    _demote_mixers(reading)
    reject_the_rest(reading, claimed)
    reject_routed(reading)
    for node in unread(graph):
        detail = f"{aten.name(node)} at {user_line(node) or 'an unknown line'}"
        reading.rejected[node] = Rejected(Reason.RUN_TIME_BRANCH, detail, (node.name,), reading.calls.path(node), 3)
    return reading


def _demote_mixers(reading: Reading) -> None:
    """Make MLPs with a convolution inverted bottlenecks if an MLP without one follows on the same stream."""
    followed = {
        reading.lineage.origin(found.branch.stream)
        for found in reading.found
        if found.branch.stream is not None and found.kind in ("mlp", "glu", "conv-mlp") and not found.branch.has_spatial
    }
    reading.found[:] = [
        replace(found, kind="inverted-bottleneck")
        if found.branch.has_spatial and found.kind in ("mlp", "glu", "conv-mlp") and found.branch.total in followed
        else found
        for found in reading.found
    ]


def _read_sum(reading: Reading, total: fx.Node, claimed: set[fx.Node]) -> None:
    flow, lineage = reading.flow, reading.lineage
    for branch in branches(flow, total, lineage.totals):
        if branch.last.core in claimed:
            continue
        outcome = _experts(reading, branch) if branch.blocked_by is not None else _classify(reading, branch)
        if isinstance(outcome, Found):
            claimed.add(branch.last.core)
            reading.rejected.pop(branch.last.core, None)
            reading.found.append(outcome)
            lineage.add(total, outcome.kind, branch.stream)
        elif outcome is not None:
            known = reading.rejected.get(branch.last.core)
            if known is None or known.nearness < outcome.nearness:
                reading.rejected[branch.last.core] = outcome
    if total not in lineage.totals and mixes_tokens(flow, total, lineage.totals):
        lineage.mixers.add(total)


def _classify(reading: Reading, branch: Branch) -> Found | Rejected | None:
    """Return the block of a branch, or the reason why it is none; ``None`` if the branch is not even a candidate."""
    flow, between = reading.flow, branch.between
    if between.attention:
        return _attention(reading, branch)
    if branch.stream is None and between.firsts:
        branch = replace(branch, stream=_nested_stream(reading, branch))
    if not between.firsts and not touches(branch):
        return None  # not a branch of this stream: an embedding to which positions are added, a lateral connection
    problem = shape_problem(flow, branch)
    if problem is not None:
        return rejected(reading, branch, *problem)
    assert branch.stream is not None  # shape_problem() has checked it
    if not flow.is_activation(branch.stream):
        return rejected(reading, branch, Reason.NOT_BATCHED, "the stream does not depend on any input", 4)
    channel = channel_axis(flow, branch.stream)
    axes = {axis for dim in flow.of(branch.stream) for axis in flow.table.axes(dim)} - {BATCH}
    contracted = flow.table.axes(between.firsts[0].contracted)
    if channel is None or not contracted <= axes:
        detail = f"axes of {branch.stream.name}: channels and tokens cannot be distinguished"
        return rejected(reading, branch, Reason.AXES_UNDECIDED, detail, 4)
    known = roles_where_shared(flow, flow.of(branch.stream), {channel})
    if known is None or not known.tokens:
        return rejected(reading, branch, *tokenless(flow, branch.stream, known is not None and known.folded > 1))
    return _assemble(reading, branch, _kind(reading, branch, contracted == {channel}), {channel})


def _nested_stream(reading: Reading, branch: Branch) -> fx.Node | None:
    """The stream of an MLP that is inside another residual branch.

    ``y = x + attention(x); out = x + mlp(y)``: the MLP's stream is ``y``, if ``y`` is computed from ``x``.
    """
    flow, lineage, others = reading.flow, reading.lineage, set(branch.others)
    paths = [chain(flow, first.source) for first in branch.between.firsts]
    for node in paths[0]:
        if (node in lineage.totals or node in lineage.mixers) and all(node in path for path in paths):
            before: fx.Node | None = node
            for _ in range(_NESTED):
                before = lineage.upstream(before) if before is not None else None
                if before in others:
                    return node
    return None


def _experts(reading: Reading, branch: Branch) -> Found | Rejected | None:
    """Return the block of a mixture of experts, or why a step before the residual add is not element-wise."""
    flow = reading.flow
    node = experts.weighted_sum(flow, branch)
    if node is None:
        return _blocked(reading, branch)
    assert branch.stream is not None
    channel = channel_axis(flow, branch.stream)
    if channel is None or flow.table.axes(branch.between.firsts[0].contracted) != {channel}:
        return _blocked(reading, branch)
    try:
        site = sites.site_at(flow, reading.calls, "end", experts.end_of(node, branch.total), {channel})
    except sites.NoSite:
        return _blocked(reading, branch)
    kind: Kind = "glu" if branch.between.gate else "mlp"
    return Found(branch, kind, site.channels, site.tokens, site.token_axes, {"end": site}, dict(experts.UNAVAILABLE))


def _blocked(reading: Reading, branch: Branch) -> Rejected | None:
    """Return why a step between the down projection and the residual add is not element-wise."""
    flow, between, node = reading.flow, branch.between, branch.blocked_by
    assert node is not None
    if is_spatial(flow, node) and branch.stream is None:
        return rejected(reading, branch, Reason.SPATIAL_CONVOLUTION, f"{node.name} mixes neighbouring positions", 1)
    if branch.stream is None or between.attention or not (between.activation or between.gate):
        return None
    if is_pooled(flow, branch.last):
        return rejected(reading, branch, *tokenless(flow, branch.last.output, False))
    detail = f"{node.name} ({aten.name(node)}) is between {branch.last.core.name} and {branch.total.name}"
    return rejected(reading, branch, Reason.NOT_ELEMENTWISE, detail, 4)


def _kind(reading: Reading, branch: Branch, channels_mixed: bool) -> Kind:
    between = branch.between
    if not channels_mixed:
        return "token-mlp"
    assert branch.stream is not None
    if branch.has_spatial and not reading.lineage.follows_mixer(branch.stream):
        return "inverted-bottleneck"
    if between.gate:
        return "glu"
    return "conv-mlp" if branch.last.convolution and between.firsts[0].convolution else "mlp"


def _assemble(reading: Reading, branch: Branch, kind: Kind, channels: set[int]) -> Found | Rejected:
    flow = reading.flow
    places: dict[str, Site] = {}
    unavailable: dict[str, str] = {}
    makers = {"front": sites.front, "mid": sites.mid, "end": sites.end}
    if kind == "attention":
        makers = {"end": sites.end}
    for position, make in makers.items():
        try:
            places[position] = make(flow, reading.calls, branch, channels)
        except sites.NoSite as reason:
            unavailable[position] = str(reason)
    if not places:
        return rejected(reading, branch, Reason.TOKENS_FOLDED, unavailable["end"], 4)
    # The sum, not the stream: reversible layers read halves of a stream, and their sum is one half.
    known = roles_where_shared(flow, flow.of(branch.total), channels)
    shown = places.get("end") or next(iter(places.values()))
    return Found(
        branch,
        kind,
        known.channels if known else shown.channels,
        known.count if known else shown.tokens,
        shown.token_axes,
        places,
        unavailable,
    )


def _attention(reading: Reading, branch: Branch) -> Found | Rejected | None:
    """Return the attention branch that a branch is, or ``None``."""
    flow = reading.flow
    readers = (*branch.between.firsts, *branch.between.others)
    stream = next((node for one in readers for node in chain(flow, one.source) if node in branch.others), branch.stream)
    if stream is None:  # learned queries, expanded to the batch, start a stream that no input reaches
        stream = next((node for node in branch.others if not flow.is_activation(node)), None)
    if stream is None or stream not in flow.table.dims:
        return None
    channel = channel_axis(flow, stream)
    if channel is None:
        return None
    known = roles_where_shared(flow, flow.of(stream), {channel})
    if known is None or not known.tokens:
        return None
    placed = Branch(branch.total, stream, branch.last, branch.between, branch.tail, branch.head_spatial, branch.others)
    outcome = _assemble(reading, placed, "attention", {channel})
    return outcome if isinstance(outcome, Found) else None
