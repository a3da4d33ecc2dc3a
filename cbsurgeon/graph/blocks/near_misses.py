"""The decision that a branch is no MLP block, and the reason."""

from __future__ import annotations

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.block import Rejected
from cbsurgeon.graph.blocks.reading import Reading
from cbsurgeon.graph.branches import experts
from cbsurgeon.graph.branches.body import body_before, is_pooled
from cbsurgeon.graph.branches.branch import Branch
from cbsurgeon.graph.branches.parts import parts_of
from cbsurgeon.graph.branches.projection import Projection, projection
from cbsurgeon.graph.branches.steps import chain, operands
from cbsurgeon.graph.reasons import Reason


def rejected(reading: Reading, branch: Branch, reason: Reason, detail: str, nearness: int) -> Rejected:
    """Return the rejected candidate with a reason."""
    firsts, last = branch.between.firsts, branch.last
    cores = [*(first.core for first in firsts), last.core]
    streams = (branch.stream,) if branch.stream is not None else () if firsts else branch.others
    reached = parts_of(reading.flow, branch.between, last, streams=streams, tail=branch.tail)
    nodes = tuple(node.name for node in (*cores, branch.total))
    return Rejected(reason, detail, nodes, reading.calls.common(cores), nearness, reached)


def tokenless(flow: Flow, stream: fx.Node, folded: bool) -> tuple[Reason, str, int]:
    """Return why a stream has no token axis: reason, detail, nearness."""
    sizes = [str(dim) for dim in stream.meta["val"].shape]
    shape = f"{stream.name} has shape [{', '.join(sizes)}]"
    if folded:
        return Reason.TOKENS_FOLDED, f"{shape}: tokens and batch share an axis", 4
    if len(sizes) > 2:
        return Reason.ONE_TOKEN, f"{shape}: the mean over one token is that token", 4
    return Reason.NO_TOKEN_AXIS, f"{shape}: a batch axis and a channel axis only", 4


def shape_problem(flow: Flow, branch: Branch) -> tuple[Reason, str, int] | None:
    """Return why a branch is not up projection, non-linearity, down projection: reason, detail, nearness; or
    ``None``."""
    between, last = branch.between, branch.last
    wide = [one for one in (*between.firsts, last) if one.spatial]
    if wide and (between.firsts or not between.others):
        return Reason.SPATIAL_CONVOLUTION, f"{wide[0].core.name} is a convolution wider than one position", 1
    if not between.firsts:
        return Reason.SINGLE_PROJECTION, f"{last.core.name} is the only projection of the branch", 1
    if branch.stream is None:
        return _no_stream(flow, branch)
    if not (between.activation or between.gate):
        return (
            Reason.NO_ACTIVATION,
            f"between {between.firsts[0].core.name} and {last.core.name} everything is linear",
            3,
        )
    return None


def _no_stream(flow: Flow, branch: Branch) -> tuple[Reason, str, int]:
    """Return why a branch has no residual stream: reason, detail, nearness."""
    if _adds_itself(flow, branch.last.core):
        return Reason.FUSED_ADD, _fused(branch.last.core), 2
    first, added = branch.between.firsts[0], set(branch.others)
    last = chain(flow, first.source)[-1]
    queue, seen = [last], set[fx.Node]()
    while queue:
        node = queue.pop()
        if node in added:
            detail = f"{branch.total.name} adds it to {node.name}, but {last.name} ({aten.name(last)}) is between "
            return Reason.NOT_FOLLOWED, f"{detail}{node.name} and {first.core.name}", 2
        if node not in seen:
            seen.add(node)
            queue += node.all_input_nodes
    return Reason.NO_RESIDUAL, f"{branch.total.name} adds it to a tensor it was not computed from", 2


def _adds_itself(flow: Flow, core: fx.Node) -> bool:
    """Whether a projection adds a tensor of the size of its result, which is then no bias."""
    added = core.args[0] if aten.name(core) in ("addmm", "baddbmm", "addbmm") else None
    return (
        isinstance(added, fx.Node)
        and flow.is_activation(added)
        and added in flow.table.dims
        and flow.table.sizes(added) == flow.table.sizes(core)
    )


def _fused(core: fx.Node) -> str:
    return f"{core.name} ({aten.name(core)}) multiplies and adds {aten.tensors(core)[0].name}"


def touches(branch: Branch) -> bool:
    """Whether the body of a branch, or its down projection, reads the stream."""
    nodes = branch.between.nodes | {branch.last.core}
    others = set(branch.others)
    return any(source in others for node in nodes for source in node.all_input_nodes)


def reject_the_rest(reading: Reading, claimed: set[fx.Node]) -> None:
    """Reject every MLP that is on no branch: it has no residual add, is pooled, or does not depend on the input."""
    flow = reading.flow
    own = {first.core for found in reading.found for first in found.branch.between.firsts}
    for found in reading.found:
        for part in (*found.branch.between.firsts, *found.branch.between.others):
            reading.rejected.pop(part.core, None)
    for core in flow.projections:
        if core in claimed or core in reading.rejected:
            continue
        last = projection(flow, core)
        if last is None or last.spatial:
            continue
        between = body_before(flow, last, reading.lineage.totals)
        firsts = [first for first in between.firsts if not first.spatial]
        if core in own or any(first.core in own for first in firsts):
            continue
        if not firsts or between.attention or not between.activation or len(firsts) != len(between.firsts):
            continue
        reason, detail = _why_no_branch(flow, last)
        nodes = tuple(node.name for node in (*(first.core for first in firsts), core))
        path = reading.calls.common([*(first.core for first in firsts), core])
        reading.rejected[core] = Rejected(reason, detail, nodes, path, 2, parts_of(flow, between, last))


def _why_no_branch(flow: Flow, last: Projection) -> tuple[Reason, str]:
    if not flow.is_activation(last.source):
        return Reason.NOT_BATCHED, "it is computed from parameters alone"
    if is_pooled(flow, last) and _gates(flow, last.output):
        return Reason.POOLED_GATE, "it reads a pooled token and multiplies the tensor that was pooled"
    if _adds_itself(flow, last.core):
        return Reason.FUSED_ADD, _fused(last.core)
    return Reason.NO_RESIDUAL, "its result is not added to the tensor it was computed from"


def _gates(flow: Flow, node: fx.Node, limit: int = 12) -> bool:
    """Whether a pooled result is broadcast and multiplied with a tensor with tokens."""
    queue, seen = [node], set[fx.Node]()
    while queue and len(seen) < limit:
        current = queue.pop()
        seen.add(current)
        for user in current.users:
            name = aten.name(user)
            if name == "mul" and flow.table.sizes(user) != flow.table.sizes(current):
                return True
            if (
                name in aten.ELEMENTWISE | aten.LAYOUT | aten.CROP | aten.DROPOUT
                and user not in seen
                and aten.value(user) is not None
            ):
                queue.append(user)
    return False


def reject_routed(reading: Reading) -> None:
    """Reject every residual add without a block whose branch routes tokens to experts."""
    flow = reading.flow
    for total in list(flow.order):
        terms = operands(flow, total)
        if not terms or total in reading.lineage.totals:
            continue
        for term in terms:
            others = {node for other in terms if other is not term for node in chain(flow, other)}
            found = experts.routing(flow, term, others)
            if found is not None:
                node, routed = found
                reason = Reason.ROUTED if routed else Reason.SEVERAL_WEIGHTS
                detail = f"{node.name} ({aten.name(node)}) is on the path to {total.name}"
                path = reading.calls.path(node)
                reading.rejected[total] = Rejected(reason, detail, (node.name, total.name), path, 4)
                break
