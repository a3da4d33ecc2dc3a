"""From occurrences to blocks: join those of one module, and set sites, notes and stacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import replace

from torch import fx

from cbsurgeon.graph.block import GROUPS, Block, Hook, Site
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.branches import experts
from cbsurgeon.graph.branches.branch import Branch
from cbsurgeon.graph.branches.hosts import Hosts

DEFAULT_KINDS = frozenset({"mlp", "glu", "conv-mlp"})
"""Kinds that are chosen by default: channel MLPs, into which the paper inserts CB (section 4.1)."""


ADAPTER = "a bottleneck beside the MLP of the same stream: an adapter"
"""The note of a block that is not chosen by default because it reads the stream of an MLP and is narrower than it."""


def fingerprint(blocks: Sequence[Block]) -> str:
    """Return a digest of kinds, paths, projections and widths of the blocks; the number of tokens is not part of it."""
    facts = [[b.kind, b.path, list(b.fc1), list(b.fc2), b.channels, b.hidden, b.calls] for b in blocks]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def same_weights(reading: Reading) -> list[list[Found]]:
    """Group the occurrences that have the same weights (a module that runs several times), in order of the first."""
    groups: dict[tuple[object, ...], list[Found]] = {}
    for found in reading.found:
        cores = [first.core for first in found.branch.between.firsts] + [found.branch.last.core]
        key = (found.kind, *(_weight(reading, core) for core in cores))
        groups.setdefault(key, []).append(found)
    return list(groups.values())


def _weight(reading: Reading, core: fx.Node) -> fx.Node:
    """The parameter behind a projection's weight, through transposes and casts."""
    node = reading.flow.projections[core][1]
    while node.op == "call_function" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def assemble(reading: Reading, group: list[Found], stack: str, hosts: Hosts, taps: Container[fx.Node]) -> Block:
    """Return the block of some occurrences, without a number.

    Args:
        reading: what was read from the program.
        group: its occurrences, in graph order.
        stack: name of its stack.
        hosts: which modules an operator can be a child of.
        taps: residual adds whose stream is also an output of the model, as a feature map.
    """
    calls, first = reading.calls, group[0]
    between, last = first.branch.between, first.branch.last
    firsts = [one.core for one in between.firsts]
    fc1 = tuple(dict.fromkeys(path for core in firsts if (path := calls.leaf(core, ()))))
    fc2 = calls.leaf(last.core, ())
    sites = {position: merged(reading, [one.sites[position] for one in group], hosts) for position in first.sites}
    end = sites.get("end")
    return Block(
        index=-1,
        stack=stack,
        kind=first.kind,
        path=calls.common([*firsts, last.core]),
        fc1=fc1 if len(fc1) else (),
        fc2=(fc2,) if fc2 else (),
        token_axes=first.token_axes,
        tokens=first.tokens,
        channels=first.channels,
        hidden=reading.flow.table.sizes(last.source)[_place(reading, first)],
        default=first.kind in DEFAULT_KINDS,
        calls=len(group),
        sites=sites,
        unavailable=first.unavailable,
        notes=_notes(first, end),
        tapped=any(found.branch.total in taps for found in group),
    )


EXPERT = "one of several experts that a router weighs per token"
"""The note of a block that is not chosen by default because it is one of several experts."""


def without_experts(reading: Reading, groups: list[list[Found]], blocks: list[Block]) -> list[Block]:
    """Return the blocks, with ``default`` false for the experts of a router, whose weighted sum is the feed-forward."""
    sums: dict[fx.Node, list[Branch]] = {}
    for group in groups:
        for one in group:
            if one.kind in DEFAULT_KINDS:
                sums.setdefault(one.branch.total, []).append(one.branch)
    weighed = {total for total, own in sums.items() if experts.are_experts(reading.flow, own)}
    return [
        replace(block, default=False, notes=(*block.notes, EXPERT))
        if block.default and group[0].branch.total in weighed
        else block
        for group, block in zip(groups, blocks, strict=True)
    ]


def without_adapters(groups: list[list[Found]], blocks: list[Block]) -> list[Block]:
    """Return the blocks, with ``default`` false for adapters.

    An adapter reads the same stream as an MLP, and its hidden width is smaller than that of the stream.
    """
    streams = {
        group[0].branch.stream
        for group, block in zip(groups, blocks, strict=True)
        if block.default and block.hidden >= block.channels
    }
    return [
        replace(block, default=False, notes=(*block.notes, ADAPTER))
        if block.default and block.hidden < block.channels and group[0].branch.stream in streams
        else block
        for group, block in zip(groups, blocks, strict=True)
    ]


def _notes(found: Found, end: Site | None) -> tuple[str, ...]:
    """Return facts about a block's End that a user should know before inserting an operator there."""
    if end is None:
        return ()
    notes = list[str]()
    if end.hooks and end.hooks[0].before_dropout:
        notes.append("dropout is a function call: in the module, an operator at End runs before it")
    if end.unfold is not None:
        notes.append(
            f"samples and tokens share an axis: it is split, and a mean is over the {end.tokens} tokens of a sample"
        )
    if end.tokens < found.tokens:
        notes.append(f"in windows: a mean is over the {end.tokens} tokens of a window, not over all {found.tokens}")
    elif end.groups > 1:
        notes.append(f"each sample has {end.groups} groups of {end.tokens} tokens {GROUPS}")
    return tuple(notes)


def _place(reading: Reading, found: Found) -> int:
    """Index of the axis that the down projection contracts."""
    dims = reading.flow.of(found.branch.last.source)
    return len(dims) - 1 - dims[::-1].index(found.branch.last.contracted)


def merged(reading: Reading, sites: Sequence[Site], hosts: Hosts) -> Site:
    """One site for all calls of a block, with the modules that run exactly as often as the block."""
    first = sites[0]
    hooks: list[Hook] = [
        hook
        for hook in first.hooks
        if hosts.takes(hook.module, reading.calls.runs)
        and reading.calls.runs(hook.module) == len(sites)
        and all(hook in other.hooks for other in sites)
    ]
    if first.unfold is not None and not (first.unfold.module and all(one.unfold == first.unfold for one in sites)):
        hooks = []  # no module output shows at run time how many tokens a sample has
    return replace(first, uses=tuple(use for site in sites for use in site.uses), hooks=tuple(hooks[:1]))


def stack_names(reading: Reading, groups: list[list[Found]]) -> list[str]:
    """Return the stack of every group: blocks on one residual stream share a stack, named by their common path."""
    owner: dict[fx.Node, int] = {}
    paths: list[list[str]] = []
    # In graph order over all groups: the second run of a module may read the output of a block of a later group.
    for found in sorted((one for group in groups for one in group), key=lambda one: _rank(reading, one)):
        assert found.branch.stream is not None
        origin = reading.lineage.origin(found.branch.stream)
        if origin not in owner:
            owner[origin] = len(paths)
            paths.append([])
        owner.setdefault(found.branch.total, owner[origin])
    member: list[int] = []
    for group in groups:
        number = owner[group[0].branch.total]
        member.append(number)
        between, last = group[0].branch.between, group[0].branch.last
        paths[number].append(reading.calls.common([*(one.core for one in between.firsts), last.core]))
    labels: list[str] = []
    for own in paths:
        label = common_prefix(own) or "model"
        again = sum(known.split("#")[0] == label for known in labels) if own else 0
        labels.append(f"{label}#{again + 1}" if again else label)
    return [labels[number] for number in member]


def _rank(reading: Reading, found: Found) -> int:
    return reading.flow.order[found.branch.last.core]


def common_prefix(paths: Sequence[str]) -> str:
    """Return the common leading components of paths, after each is cut at its first number."""
    cut: list[list[str]] = []
    for path in paths:
        parts = path.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
        cut.append(parts[:number])
    shared = cut[0] if cut else []
    for parts in cut[1:]:
        same = 0
        while same < min(len(shared), len(parts)) and shared[same] == parts[same]:
            same += 1
        shared = shared[:same]
    return ".".join(shared)
