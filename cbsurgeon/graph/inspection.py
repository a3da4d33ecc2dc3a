"""From a reading to the public answer: numbered blocks, stacks, reasons, fingerprint."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from torch import fx

from cbsurgeon.errors import CaptureError
from cbsurgeon.graph.attention import causality as leaks
from cbsurgeon.graph.attention import class_token, filler, padding
from cbsurgeon.graph.attention.influence import Probe
from cbsurgeon.graph.block import Block, Hook, Inspection, Mask, Site
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.copying import without_compiled
from cbsurgeon.graph.capture.parts import Parts, capture_parts
from cbsurgeon.graph.capture.tracing import origins
from cbsurgeon.graph.hosts import Hosts, hosts_of
from cbsurgeon.graph.occupants import occupied, without
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reader import Found, Reading, read
from cbsurgeon.graph.taps import tapped
from cbsurgeon.models.model import Model

PARTIAL = frozenset({"CB-CAPTURE-03", "CB-CAPTURE-04", "CB-CAPTURE-05"})
"""Failures of the whole after which its parts are tried."""

DEFAULT_KINDS = frozenset({"mlp", "glu", "conv-mlp"})
"""Kinds chosen when nothing narrower is asked for: channel MLPs, the paper's place for CB (section 4.1)."""


ADAPTER = "a bottleneck beside the MLP of the same stream: an adapter"
"""The note of a block that is chosen only on request because it reads the stream of an MLP and is narrower than it."""


def inspect(model: Model, *, check: bool = True) -> Inspection:
    """Capture a model and find its MLP blocks, the axes of each, and the reasons for what was rejected.

    Args:
        model: a module with example inputs, or a program.
        check: compare the captured program with the eager model (see :func:`cbsurgeon.graph.capture.whole.capture`).

    Raises:
        CaptureError: the model cannot be captured.
    """
    start = time.perf_counter()
    model = without_compiled(model)
    hosts = hosts_of(model)
    failure: CaptureError | None = None
    try:
        parts = Parts((capture(model, check=check),), {}, {})
    except CaptureError as error:
        if error.code not in PARTIAL or model.module is None:
            raise
        failure = error
        parts = capture_parts(model)
        if not parts.programs:
            raise
    captured = time.perf_counter() - start
    found = [_inspect_part(program, model.provenance.reference, hosts) for program in parts.programs]
    if failure is not None and not any(part.blocks or part.attention for part in found):
        raise failure  # nothing was read of the code that failed, so its absence of blocks means nothing
    if len(found) == 1 and not parts.programs[0].prefix:
        return replace(found[0], seconds={"capture": captured, **found[0].seconds})
    return _joined(model, parts, found, captured)


def _inspect_part(program: Program, reference: str, hosts: Hosts) -> Inspection:
    """Inspect one program; paths of a part become paths of the whole model."""
    prefix = program.prefix
    if not prefix:
        return inspect_program(program, reference, hosts=hosts)
    found = inspect_program(program, reference, hosts=hosts.under(prefix))
    return replace(
        found,
        blocks=tuple(_under(block, prefix) for block in found.blocks),
        attention=tuple(_under(block, prefix) for block in found.attention),
        rejected=tuple(replace(one, path=_path(prefix, one.path)) for one in found.rejected),
        causal_stacks={_stack_under(prefix, stack): one for stack, one in found.causal_stacks.items()},
        reversed_stacks=tuple(_stack_under(prefix, stack) for stack in found.reversed_stacks),
        unmasked={_stack_under(prefix, stack): why for stack, why in found.unmasked.items()},
    )


def _path(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if path else prefix


def _under(block: Block, prefix: str) -> Block:
    sites = {
        position: replace(
            site,
            hooks=tuple(replace(hook, module=_path(prefix, hook.module)) for hook in site.hooks),
            mask=replace(site.mask, module=_path(prefix, site.mask.module)) if site.mask is not None else None,
        )
        for position, site in block.sites.items()
    }
    return replace(
        block,
        stack=_stack_under(prefix, block.stack),
        path=_path(prefix, block.path),
        fc1=tuple(_path(prefix, path) for path in block.fc1),
        fc2=tuple(_path(prefix, path) for path in block.fc2),
        sites=sites,
        tapped=None,
    )


def _stack_under(prefix: str, stack: str) -> str:
    """A part's stack in the whole model; layers that were captured one by one share the stack of their container."""
    if stack == "model":
        stack = ""
    return (
        _common_prefix([prefix]) or prefix
        if any(part.isdigit() for part in prefix.split("."))
        else _path(prefix, stack)
    )


def _joined(model: Model, parts: Parts, found: Sequence[Inspection], captured: float) -> Inspection:
    """One answer for several captured parts, blocks numbered through."""
    prefixes = [program.prefix for program in parts.programs]

    def through(branches: Iterable[tuple[str, Block]]) -> tuple[Block, ...]:
        """A block runs as often in its part as was read there, times as often as the part runs in the model."""
        return tuple(
            replace(block, index=i, calls=block.calls * parts.runs.get(prefix, 1))
            for i, (prefix, block) in enumerate(branches)
        )

    blocks = through((prefix, block) for prefix, part in zip(prefixes, found, strict=True) for block in part.blocks)
    attention = through((prefix, b) for prefix, part in zip(prefixes, found, strict=True) for b in part.attention)
    masks = {prefix: part.masks for prefix, part in zip(prefixes, found, strict=True)}
    return Inspection(
        blocks=blocks,
        rejected=tuple(sorted((r for part in found for r in part.rejected), key=lambda one: -one.nearness)),
        attention=attention,
        reference=model.provenance.reference,
        fingerprint=fingerprint(blocks),
        causal_stacks={stack: one for part in found for stack, one in part.causal_stacks.items()},
        reversed_stacks=tuple(dict.fromkeys(stack for part in found for stack in part.reversed_stacks)),
        masks=origins(model, parts.programs, masks),
        unmasked={stack: why for part in found for stack, why in part.unmasked.items()},
        left_out=dict(parts.left_out),
        seconds={"capture": captured, "read": sum(part.seconds["read"] for part in found)},
    )


def inspect_program(
    program: Program,
    reference: str = "program",
    *,
    probe: bool = True,
    hosts: Hosts | None = None,
) -> Inspection:
    """Find the blocks of a captured program.

    Args:
        program: what :func:`cbsurgeon.graph.capture.whole` returned.
        reference: what to call it.
        probe: run the program to tell causal masks from others where the graph does not say.
        hosts: which modules an operator can be a child of; any by default.
    """
    start = time.perf_counter()
    bare, standing = without(program)
    reading = read(bare)
    groups = _same_weights(reading)
    names = _stack_names(reading, groups)
    taps = tapped(reading)
    every = [
        occupied(_block(reading, group, names[place], hosts or Hosts(), taps), standing)
        for place, group in enumerate(groups)
    ]
    every = class_token.proved(reading, groups, _without_adapters(groups, every))
    members = [(block.stack, one) for block, group in zip(every, groups, strict=True) for one in group]
    run = Probe(bare) if probe and has_weights(program) else None
    hidden = leaks.hiding(reading, members, run)
    every, unmasked = _masked(bare, reading, groups, every, run=run is not None)
    marking = _marking(bare, reading, groups, every, unmasked, run) if run is not None else {}
    unmasked |= {stack: f"{name} hides its tokens, and not by an attention mask" for stack, name in marking.items()}
    blocks = tuple(replace(block, index=i) for i, block in enumerate(b for b in every if b.kind != "attention"))
    attention = tuple(replace(block, index=i) for i, block in enumerate(b for b in every if b.kind == "attention"))
    rejected = tuple(sorted(reading.rejected.values(), key=lambda candidate: -candidate.nearness))
    return Inspection(
        blocks=blocks,
        rejected=rejected,
        attention=attention,
        reference=reference,
        fingerprint=fingerprint(blocks),
        causal_stacks={stack: one.evidence for stack, one in hidden.items()},
        reversed_stacks=tuple(stack for stack, one in hidden.items() if one.past),
        masks=tuple(dict.fromkeys([*leaks.masks(reading), *marking.values()])),
        unmasked=unmasked,
        seconds={"read": time.perf_counter() - start},
    )


def _marking(
    program: Program,
    reading: Reading,
    groups: list[list[Found]],
    blocks: list[Block],
    unmasked: Container[str],
    run: Probe,
) -> dict[str, str]:
    """Stack → input that hides tokens there, for the stacks in which no attention takes a mask."""
    known = {block.stack for block in blocks if any(site.mask is not None for site in block.sites.values())}
    members = [
        (block.stack, one)
        for block, group in zip(blocks, groups, strict=True)
        if block.stack not in known and block.stack not in unmasked
        for one in group
    ]
    return filler.marking_inputs(program, reading, members, run)


def _masked(
    program: Program, reading: Reading, groups: list[list[Found]], blocks: list[Block], *, run: bool
) -> tuple[list[Block], dict[str, str]]:
    """The blocks with the mask of every site, and why a stack whose attention takes one has none."""
    stacks = [block.stack for block in blocks]
    attentions = [(stack, one) for stack, group in zip(stacks, groups, strict=True) for one in group]
    ties = padding.ties(program, reading, (pair for pair in attentions if pair[1].kind == "attention"), run=run)
    if not ties:
        return blocks, {}
    nodes = {node.name: node for node in reading.flow.order}
    tensors = [(site, nodes[site.uses[0].value]) for block in blocks for site in block.sites.values()]
    ties = padding.placed(reading.flow, ties, tensors)
    result: list[Block] = []
    unmasked: dict[str, str] = {}
    for block in blocks:
        sites = dict(block.sites)
        for position, site in block.sites.items():
            mask = padding.mask_of(reading.flow, site, nodes[site.uses[0].value], block.stack, ties)
            if isinstance(mask, Mask):
                sites[position] = replace(site, mask=mask)
            elif mask:
                unmasked.setdefault(block.stack, mask)
        result.append(replace(block, sites=sites))
    return result, unmasked


def has_weights(program: Program) -> bool:
    """Whether the program's parameters hold values (a model may be read on the meta device)."""
    return all(not getattr(tensor, "is_meta", False) for tensor in program.exported.state_dict.values())


def fingerprint(blocks: Sequence[Block]) -> str:
    """Digest of a structure: kinds, paths, projections and widths of its blocks; not the number of tokens."""
    facts = [[b.kind, b.path, list(b.fc1), list(b.fc2), b.channels, b.hidden, b.calls] for b in blocks]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _same_weights(reading: Reading) -> list[list[Found]]:
    """Occurrences of one block (a module that runs several times) together, in order of the first."""
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


def _block(reading: Reading, group: list[Found], stack: str, hosts: Hosts, taps: Container[fx.Node]) -> Block:
    calls, first = reading.calls, group[0]
    between, last = first.branch.between, first.branch.last
    firsts = [one.core for one in between.firsts]
    fc1 = tuple(dict.fromkeys(path for core in firsts if (path := calls.leaf(core, ()))))
    fc2 = calls.leaf(last.core, ())
    sites = {position: _merged(reading, [one.sites[position] for one in group], hosts) for position in first.sites}
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


def _without_adapters(groups: list[list[Found]], blocks: list[Block]) -> list[Block]:
    """The blocks, a bottleneck beside an MLP no longer chosen by default.

    An adapter reads the same stream as the MLP it was put beside, and is narrower than the stream.
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
    """What a user should know before an operator goes to a block's End."""
    if end is None:
        return ()
    notes = list[str]()
    if end.hooks and end.hooks[0].before_dropout:
        notes.append("dropout is a function call: on the module, End stands before it")
    if end.tokens < found.tokens:
        notes.append(f"in windows: a mean there is over the {end.tokens} of {found.tokens} tokens of each window")
    return tuple(notes)


def _place(reading: Reading, found: Found) -> int:
    """Index of the axis the last projection contracts."""
    dims = reading.flow.of(found.branch.last.source)
    return len(dims) - 1 - dims[::-1].index(found.branch.last.contracted)


def _merged(reading: Reading, sites: list[Site], hosts: Hosts) -> Site:
    """One site for all calls of a block; a module counts only if it runs just as often as the block does."""
    first = sites[0]
    hooks: list[Hook] = [
        hook
        for hook in first.hooks
        if hosts.takes(hook.module, reading.calls.runs)
        and reading.calls.runs(hook.module) == len(sites)
        and all(hook in other.hooks for other in sites)
    ]
    return replace(first, uses=tuple(use for site in sites for use in site.uses), hooks=tuple(hooks[:1]))


def _stack_names(reading: Reading, groups: list[list[Found]]) -> list[str]:
    """A name per group: blocks whose streams descend from each other share a stack, named by their common path."""
    owner: dict[fx.Node, int] = {}
    paths: list[list[str]] = []
    # In graph order over all groups: what a module's second run reads was made by a block whose group comes later.
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
        label = _common_prefix(own) or "model"
        again = sum(known.split("#")[0] == label for known in labels) if own else 0
        labels.append(f"{label}#{again + 1}" if again else label)
    return [labels[number] for number in member]


def _rank(reading: Reading, found: Found) -> int:
    return reading.flow.order[found.branch.last.core]


def _common_prefix(paths: Sequence[str]) -> str:
    """The shared leading components of paths, each cut at its first number."""
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
