"""``inspect``: capture a model and return its numbered blocks, stacks, attentions, rejected candidates and
fingerprint."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import replace

from cbsurgeon.errors import CaptureError
from cbsurgeon.graph import apart
from cbsurgeon.graph.attention import causality, class_token, padding
from cbsurgeon.graph.attention.causality import Causality
from cbsurgeon.graph.attention.hiding import filler, orders
from cbsurgeon.graph.attention.hiding.trials import is_choice
from cbsurgeon.graph.attention.maps import listing
from cbsurgeon.graph.attention.memory_order import memory_orders
from cbsurgeon.graph.attention.outside.finding import add_code_outside_parts
from cbsurgeon.graph.attention.own_order import own_orders
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.queries import QUERY, query_sites
from cbsurgeon.graph.batch_axis import refuse_mixed_samples, refuse_other_axis
from cbsurgeon.graph.block import Block, Inspection, Mask, Site
from cbsurgeon.graph.blocks.assembly import (
    assemble,
    fingerprint,
    merged,
    same_weights,
    stack_names,
    without_adapters,
    without_experts,
)
from cbsurgeon.graph.blocks.batch_of_one import reject_squeezed
from cbsurgeon.graph.blocks.joining import block_under, joined, path_under, stack_under
from cbsurgeon.graph.blocks.reader import read
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.blocks.taps import tapped
from cbsurgeon.graph.branches.hosts import Hosts, hosts_of
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch.axis import input_names
from cbsurgeon.graph.capture.copying import without_compiled
from cbsurgeon.graph.capture.parts import Parts, capture_parts
from cbsurgeon.graph.occupants import Occupant, occupied, without
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model

PARTIAL = frozenset({"CB-CAPTURE-03", "CB-CAPTURE-04", "CB-CAPTURE-05"})
"""Errors of capturing the whole model after which its parts are tried."""


def inspect(model: Model, *, check: bool = True, program: Program | None = None) -> Inspection:
    """Capture a model and return its MLP blocks, their axes and sites, and rejected candidates with reasons.

    Args:
        model: a module with example inputs, or a program.
        check: compare the captured program with the eager model (see :func:`cbsurgeon.graph.capture.whole.capture`).
        program: the captured model, if the caller has it already.

    Raises:
        CaptureError: the model cannot be captured.
    """
    start = time.perf_counter()
    model = without_compiled(model)
    hosts = hosts_of(model)
    failure: CaptureError | None = None
    try:
        program = program or capture(model, check=check, same_draws=True)
        refuse_mixed_samples(model, (program,), run=has_weights(program))
        parts = Parts((program,), {}, {})
    except CaptureError as error:
        if error.code not in PARTIAL or model.module is None:
            raise
        refuse_other_axis(model, error)
        failure = error
        parts = capture_parts(model)
        if not parts.programs:
            raise
        refuse_mixed_samples(model, parts.programs, run=all(map(has_weights, parts.programs)))
    captured = time.perf_counter() - start
    found = [_inspect_part(program, model.provenance.reference, hosts) for program in parts.programs]
    if failure is not None and not any(part.blocks or part.attention for part in found):
        raise failure  # the code that could not be captured may contain blocks
    if len(found) == 1 and not parts.programs[0].prefix:
        return replace(found[0], given=_given(model), seconds={"capture": captured, **found[0].seconds})
    whole = replace(joined(model, parts, found, captured), given=_given(model))
    meta = any(parameter.is_meta for parameter in model.module.parameters()) if model.module is not None else True
    return whole if meta else add_code_outside_parts(model, whole)


def _given(model: Model) -> tuple[str, ...]:
    """Return the parameters of a model's ``forward()`` that its example inputs give; none for a program."""
    if model.module is None:
        return ()
    return tuple(dict.fromkeys(input_names(model.module, (tuple(model.example_inputs), dict(model.example_kwargs)))))


def _inspect_part(program: Program, reference: str, hosts: Hosts) -> Inspection:
    """Inspect one program; paths of a part become paths of the whole model."""
    prefix = program.prefix
    if not prefix:
        return inspect_program(program, reference, hosts=hosts)
    found = inspect_program(program, reference, hosts=hosts.under(prefix))
    return replace(
        found,
        blocks=tuple(block_under(block, prefix) for block in found.blocks),
        attention=tuple(block_under(block, prefix) for block in found.attention),
        attentions=tuple(
            replace(one, path=path_under(prefix, one.path), stack=stack_under(prefix, one.stack))
            for one in found.attentions
        ),
        rejected=tuple(replace(one, path=path_under(prefix, one.path)) for one in found.rejected),
        causal_stacks={stack_under(prefix, stack): one for stack, one in found.causal_stacks.items()},
        reversed_stacks=tuple(stack_under(prefix, stack) for stack in found.reversed_stacks),
        unmasked={stack_under(prefix, stack): why for stack, why in found.unmasked.items()},
        operators=tuple((op, path_under(prefix, path)) for op, path in found.operators),
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
        program: what :func:`cbsurgeon.graph.capture.whole.capture` returned.
        reference: name of the model for messages.
        probe: run the program to detect causal and padding masks that the graph does not show.
        hosts: which modules an operator can be a child of; any by default.
    """
    start = time.perf_counter()
    bare, operators = without(program)
    reading = read(bare)
    reject_squeezed(bare, reading, run=has_weights(program))
    groups = same_weights(reading)
    names = stack_names(reading, groups)
    taps = tapped(reading)
    every = [
        occupied(assemble(reading, group, names[place], hosts or Hosts(), taps), operators)
        for place, group in enumerate(groups)
    ]
    every = class_token.proved(reading, groups, without_experts(reading, groups, without_adapters(groups, every)))
    members = [(block.stack, one) for block, group in zip(every, groups, strict=True) for one in group]
    run = Probe(bare) if probe and has_weights(program) else None
    causal = causality.causal_stacks(reading, members, run)
    every = apart.with_notes(reading, groups, every, run) if run is not None else every
    every, unmasked = _masked(bare, reading, groups, every, run=run is not None)
    marking: dict[str, str] = {}
    if run is not None:
        marking, ordered = _hidden(bare, reading, groups, every, unmasked, causal, run)
        causal = _without_padding(reading, members, causal, marking, run) | ordered
    unmasked |= {stack: f"{name} masks its tokens, but not as an attention mask" for stack, name in marking.items()}
    every = [_without_masks(block) if block.stack in marking else block for block in every]
    every = _with_queries(bare, reading, groups, every, hosts or Hosts(), operators, run=has_weights(program))
    blocks = tuple(replace(block, index=i) for i, block in enumerate(b for b in every if b.kind != "attention"))
    attention = tuple(replace(block, index=i) for i, block in enumerate(b for b in every if b.kind == "attention"))
    listing.reject_mapless(reading)
    rejected = tuple(sorted(reading.rejected.values(), key=lambda candidate: -candidate.nearness))
    return Inspection(
        blocks=blocks,
        rejected=rejected,
        attention=attention,
        attentions=listing.list_attentions(bare, reading, members, causal, run=has_weights(program)),
        reference=reference,
        fingerprint=fingerprint(blocks),
        causal_stacks={stack: one.evidence for stack, one in causal.items()},
        reversed_stacks=tuple(stack for stack, one in causal.items() if one.past),
        masks=tuple(dict.fromkeys([*causality.masks(reading), *marking.values()])),
        unmasked=unmasked,
        operators=tuple(dict.fromkeys((one.op, one.path) for one in operators)),
        seconds={"read": time.perf_counter() - start},
    )


def _with_queries(
    program: Program,
    reading: Reading,
    groups: list[list[Found]],
    blocks: list[Block],
    hosts: Hosts,
    operators: list[Occupant],
    *,
    run: bool,
) -> list[Block]:
    """The blocks, with the site ``query`` added to attention branches."""
    members = [one for group in groups for one in group if one.kind == "attention"]
    found = dict(zip(map(id, members), query_sites(program, reading, members, run=run), strict=True))
    result: list[Block] = []
    for block, group in zip(blocks, groups, strict=True):
        if block.kind != "attention":
            result.append(block)
            continue
        sites = [found[id(one)] for one in group]
        refused = next((site for site in sites if isinstance(site, str)), "")
        if refused:
            result.append(replace(block, unavailable={**block.unavailable, QUERY: refused}))
            continue
        site = merged(reading, [site for site in sites if isinstance(site, Site)], hosts)
        result.append(occupied(replace(block, sites={**block.sites, QUERY: site}), operators))
    return result


def _hidden(
    program: Program,
    reading: Reading,
    groups: list[list[Found]],
    blocks: list[Block],
    unmasked: Container[str],
    causal: Mapping[str, Causality],
    run: Probe,
) -> tuple[dict[str, str], dict[str, Causality]]:
    """Return, for each stack that has one, the input that masks its tokens by other means than an attention mask; and
    the stacks whose tokens see each other in an order that depends on the inputs."""
    known: dict[str, set[Mask]] = {}
    for block in blocks:
        masks = {site.mask for site in block.sites.values() if site.mask is not None}
        known.setdefault(block.stack, set()).update(masks)
    every = [(block.stack, one) for block, group in zip(blocks, groups, strict=True) for one in group]
    names = {stack: {mask.input for mask in masks} for stack, masks in known.items()}
    members = [(stack, one) for stack, one in every if stack not in unmasked]
    found = filler.marking_inputs(program, reading, members, run, names)
    masked = filler.marking_inputs(program, reading, [one for one in every if one[0] in unmasked], run, names)
    choice = {name: is_choice(program.example[name]) for name in program.batch_axes}
    order = {
        stack: f"the values of {name} decide which tokens see which; if it always holds "
        + ("one value, put it into forward()" if choice.get(name) else "increasing values, leave it out")
        for stack, (name, how) in (found | masked).items()
        if how == "order"
    }
    # An order may look like padding: a token that is behind all others is seen by none.
    rest = [(stack, one) for stack, one in every if stack not in order and stack not in causal]
    order |= orders.ordered_stacks(program, reading, rest, run, frozenset().union(*known.values()))
    rest = [(stack, one) for stack, one in members if not {stack} & (found.keys() | causal.keys() | order.keys())]
    order |= own_orders(reading, rest, run)
    marking = {stack: name for stack, (name, how) in found.items() if how == "padding" and stack not in order}
    decided = {stack: Causality((sentence,), past=True) for stack, sentence in order.items()}
    decided |= memory_orders(reading, [(stack, one) for stack, one in rest if stack not in order], run)
    return marking, decided


def _without_padding(
    reading: Reading,
    members: list[tuple[str, Found]],
    causal: Mapping[str, Causality],
    marking: Container[str],
    run: Probe,
) -> dict[str, Causality]:
    """Return the causal stacks without those whose last tokens are only hidden as padding by the example inputs."""
    padded = [(stack, one) for stack, one in members if stack in causal and stack in marking]
    still = causality.causal_stacks(reading, padded, run, padded=True)
    return {stack: one for stack, one in causal.items() if stack not in marking or stack in still}


def _without_masks(block: Block) -> Block:
    return replace(block, sites={position: replace(site, mask=None) for position, site in block.sites.items()})


def _masked(
    program: Program, reading: Reading, groups: list[list[Found]], blocks: list[Block], *, run: bool
) -> tuple[list[Block], dict[str, str]]:
    """Return the blocks with the padding mask of every site, and for each stack whose mask is not proved the reason."""
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
    """Whether the program's parameters hold values (a model may be captured on the meta device)."""
    return all(not getattr(tensor, "is_meta", False) for tensor in program.exported.state_dict.values())
