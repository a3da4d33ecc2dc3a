"""Find the sites of a branch: the tensors at Front, Mid and End, their axes, and their modules."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.roles import roles, roles_where_shared
from cbsurgeon.graph.axes.table import BATCH
from cbsurgeon.graph.block import Hook, Position, Site, Use
from cbsurgeon.graph.branches.branch import Branch
from cbsurgeon.graph.branches.modules import ModuleCalls
from cbsurgeon.graph.branches.projection import Projection
from cbsurgeon.operators import CB, CBS
from cbsurgeon.operators.common.unfolding import Unfold


@dataclass(frozen=True)
class Place:
    """A tensor and the nodes that are to read the operator's result instead; none means all of its readers."""

    value: fx.Node
    readers: tuple[fx.Node, ...] = ()


class NoSite(Exception):
    """A position does not exist in this branch; the message says why."""


def front(flow: Flow, calls: ModuleCalls, branch: Branch, channels: set[int]) -> Site:
    """Return the site Front: the input of the up projection(s).

    Raises:
        NoSite: the up projections read different tensors, or one of them also feeds something else.
    """
    firsts = [_behind_guard(first) for first in branch.between.firsts]
    if len({first.source for first in firsts}) != 1:
        raise NoSite("the up projections read different tensors")
    for first in branch.between.firsts:
        stranger = _feeds_elsewhere(first.output, branch)
        if stranger is not None:
            raise NoSite(f"the up projection also feeds {stranger.name}, which is not part of this branch")
    place = _input_place(flow, firsts, channels)
    return _site(flow, calls, "front", place, channels)


def mid(flow: Flow, calls: ModuleCalls, branch: Branch, channels: set[int]) -> Site:
    """Return the site Mid: the input of the down projection."""
    if not flow.table.axes(branch.between.firsts[0].contracted) <= channels:
        raise NoSite("the hidden axis of a token-mixing MLP holds mixtures of all tokens")
    hidden = flow.table.axes(branch.last.contracted)
    place = _input_place(flow, [branch.last], hidden)
    return _site(flow, calls, "mid", place, hidden)


def end(flow: Flow, calls: ModuleCalls, branch: Branch, channels: set[int]) -> Site:
    """Return the site End: after the down projection and its dropout, before layer scale, drop path, norm and the add.

    If layout steps follow, the tensor with the most tokens is taken, which merges windows. Attention in windows keeps
    its End inside the windows.
    """
    made = set(channels)
    if branch.between.attention or flow.table.axes(branch.between.firsts[0].contracted) <= channels:
        made |= flow.table.axes(_feature_dim(flow, branch.last))
    value = branch.tail[0]
    dropped = False
    for node in branch.tail[1:]:
        name = aten.name(node)
        if aten.is_guard(node):
            value = node
        elif name in aten.DROPOUT:
            value, dropped = node, True
        elif name not in aten.LAYOUT:
            break
    undropped = branch.tail[0]
    best, most = value, _tokens(flow, value, made)
    for node in branch.tail[branch.tail.index(value) + 1 :]:
        if aten.name(node) not in aten.LAYOUT or (most and branch.between.attention):
            break
        if (count := _tokens(flow, node, made)) > most:
            best, most = node, count
    dropout = undropped if dropped else None
    site = _site(flow, calls, "end", Place(best), made, dropout)
    if best is value or site.hooks:
        return site
    on_module = _site(flow, calls, "end", Place(value), made, dropout)
    split = on_module.unfold is not None and on_module.unfold.module and on_module.tokens == site.tokens
    return on_module if split and on_module.hooks else site


def site_at(flow: Flow, calls: ModuleCalls, position: Position, value: fx.Node, channels: set[int]) -> Site:
    """Return the site at a given tensor, for all of its readers.

    Raises:
        NoSite: there are no tokens there.
    """
    return _site(flow, calls, position, Place(value), channels)


def _tokens(flow: Flow, node: fx.Node, channels: set[int]) -> int:
    """Number of tokens along axes that do not hold samples as well; 0 if there is no such axis."""
    known = roles(flow, flow.of(node), channels)
    return known.count if known is not None and known.tokens else 0


def _feature_dim(flow: Flow, last: Projection) -> tuple:  # type: ignore[type-arg]
    dims = flow.of(last.core)
    return dims[1] if last.convolution else dims[-1]


def _input_place(flow: Flow, projections: list[Projection], channels: set[int]) -> Place:
    """The projections' input; if layout steps made only for them merge its axes, the tensor before these steps."""
    value = projections[0].source
    readers = tuple(dict.fromkeys(reader for one in projections for reader in one.readers))
    while True:
        known = roles(flow, flow.of(value), channels)
        if known is not None and known.tokens:
            return Place(value, readers)
        if aten.name(value) not in aten.LAYOUT or set(value.users) != set(readers):
            return Place(projections[0].source, tuple(r for one in projections for r in one.readers))
        value, readers = aten.tensors(value)[0], (value,)


def _behind_guard(first: Projection) -> Projection:
    """A projection together with the clamp before it that protects its number format."""
    if aten.is_guard(first.source) and set(first.source.users) == set(first.readers):
        return replace(first, source=aten.tensors(first.source)[0], readers=(first.source,))
    return first


def _feeds_elsewhere(output: fx.Node, branch: Branch) -> fx.Node | None:
    """A node outside the branch that reads a projection's result, possibly after a split or a view, or ``None``."""
    inside = branch.between.nodes | set(branch.last.readers) | {branch.last.core}
    queue = list(output.users)
    while queue:
        user = queue.pop()
        name = aten.name(user)
        if name in aten.LAYOUT or name in aten.CROP or name in aten.SPLIT:
            queue.extend(user.users)
        elif user not in inside and (user.op == "output" or (aten.value(user) is not None and user.users)):
            return user
    return None


def _site(
    flow: Flow,
    calls: ModuleCalls,
    position: Position,
    place: Place,
    channels: set[int],
    undropped: fx.Node | None = None,
) -> Site:
    known = roles_where_shared(flow, flow.of(place.value), channels)
    if known is None:
        raise NoSite("channels share an axis with tokens or samples there")
    if not known.tokens:
        raise NoSite(
            "tokens share an axis with the batch there" if known.folded > 1 else "there is no token axis there"
        )
    return Site(
        position=position,
        token_axes=known.tokens,
        channel_axis=known.channel,
        batch_axes=known.batch,
        tokens=known.count,
        channels=known.channels,
        uses=(Use(place.value.name, tuple(reader.name for reader in place.readers)),),
        hooks=_hooks(calls, place, undropped),
        occupied=occupant(flow, place.value, known.tokens),
        unfold=_shown(flow, calls, place.value, known.unfold) if known.unfold is not None else None,
        groups=known.folded if known.unfold is None else 1,
    )


def _shown(flow: Flow, calls: ModuleCalls, value: fx.Node, unfold: Unfold) -> Unfold:
    """The split of a tensor, and the nearest module before it whose output has the same samples and tokens on separate
    axes."""
    shared = flow.plain(flow.of(value)[unfold.axis])
    samples = next(place for place, factor in enumerate(shared) if factor.axis == BATCH)
    for node, path in calls.results_before(value):
        dims = [flow.plain(dim) for dim in flow.of(node)]
        if all(dims.count((factor,)) == 1 for factor in shared):
            axes = tuple(dims.index((factor,)) for factor in shared)
            return replace(
                unfold, module=path, samples=axes[samples], before_axes=axes[:samples], after_axes=axes[samples + 1 :]
            )
    return unfold


def _hooks(calls: ModuleCalls, place: Place, undropped: fx.Node | None) -> tuple[Hook, ...]:
    """Every module whose input or output the tensor is, the best first."""
    if place.readers:
        found = calls.input_hooks(place.value, place.readers)
        return tuple(found + (calls.output_hooks(place.value) if set(place.value.users) == set(place.readers) else []))
    found = calls.output_hooks(place.value)
    if undropped is not None:
        found += [replace(hook, before_dropout=True) for hook in calls.output_hooks(undropped)]
    return tuple(found)


def occupant(flow: Flow, value: fx.Node, token_axes: tuple[int, ...]) -> str | None:
    """Return the operator that a model already applies to a tensor: a token mean that is added to the tensor.

    Returns:
        ``cb`` if the sum is halved, ``cb_s`` if the mean is scaled by a parameter, ``mean`` for other sums; or
        ``None``.
    """
    for total in _sums_near(value):
        live = [source for source in aten.tensors(total) if flow.is_activation(source)]
        if len(live) != 2:
            continue
        trails = [_past_scaling(flow, source) for source in live]
        means = [trail[-1] for trail in trails if aten.name(trail[-1]) == "mean"]
        if len(means) != 1:
            continue
        base = _past_scaling(flow, aten.tensors(means[0])[0])[-1]
        if base is not value and total is not value:
            continue
        where = aten.argument(means[0], 1, "dim")
        rank = len(flow.of(means[0]))
        if isinstance(where, list | tuple) and {axis % rank for axis in where} == set(token_axes):
            return _which([node for trail in trails for node in trail] + list(total.users), flow)
    return None


def _sums_near(value: fx.Node) -> list[fx.Node]:
    """Additions that produce ``value`` or read it within a few steps."""
    near, frontier = [value], [value]
    for _ in range(4):
        frontier = [user for node in frontier for user in node.users]
        near += frontier
    return [node for node in near if aten.name(node) == "add"]


def _past_scaling(flow: Flow, node: fx.Node) -> list[fx.Node]:
    trail = [node]
    while aten.name(trail[-1]) in ("mul", "div", "to", "_to_copy", "float", "half", "view", "reshape"):
        live = [source for source in aten.tensors(trail[-1]) if flow.is_activation(source)]
        if len(live) != 1:
            break
        trail.append(live[0])
    return trail


def _which(nodes: list[fx.Node], flow: Flow) -> str:
    scaled = [node for node in nodes if aten.name(node) in ("mul", "div")]
    if any(arg in (0.5, 2, 2.0) for node in scaled for arg in node.args if isinstance(arg, int | float)):
        return CB.name
    return CBS.name if any(len(aten.tensors(node)) > 1 for node in scaled) else "mean"
