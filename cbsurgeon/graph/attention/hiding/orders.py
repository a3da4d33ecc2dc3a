"""Orders of the tokens that differ between samples.

Together, samples with different orders show no order: each token sees each other in some sample. Such an order is
computed from an input, so it reaches the stack beside the residual stream. If something does, single samples are run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, fx

from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.stretches import Stretch, Tokens, stretch
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.block import Mask
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.program import Program

MOST_SAMPLES = 2
"""Number of samples that are run. One of them may have an order that shows nothing, such as equal times."""


def ordered_stacks(
    program: Program, reading: Reading, members: Sequence[tuple[str, Found]], run: Probe, known: Collection[Mask]
) -> dict[str, str]:
    """Return, for each stack in whose samples the tokens see each other in an order, a sentence about it.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block, attention included, of the stacks to test.
        run: runs the stacks.
        known: the proved padding masks; in the runs, no token is padding.
    """
    whole = {mask.input: _without_padding(program.example[mask.input], mask) for mask in known}
    found: dict[str, str] = {}
    for stack, group in by_stack(reading, members).items():
        for tokens, own in resolutions(reading.flow, group).items():
            stream = own[0].branch.stream
            assert stream is not None
            if stack in found or all(one.kind == "attention" for one in own):
                continue
            part = stretch(reading, stream, own[-1].branch.total, tokens, far=False)
            if part is None or not (beside := _beside(reading, part, tokens, whole)):
                continue
            before = stretch(reading, stream, own[-1].branch.total, tokens, far=True)
            if any(run.ordered(part, whole, sample) for sample in range(MOST_SAMPLES)) and _starts_apart(
                run, before, part
            ):
                found[stack] = f"in a single sample, {beside} decides which tokens see which"
    return found


def _without_padding(example: Tensor, mask: Mask) -> Tensor:
    return torch.ones_like(example) if mask.valid == "nonzero" else torch.zeros_like(example)


def _starts_apart(run: Probe, before: Stretch | None, part: Stretch) -> bool:
    """Return whether the tokens do not see each other before they enter a stretch."""
    if before is None or before.entry is part.entry:
        return True
    layouts = {node: one.layouts[node] for one, node in ((before, before.entry), (part, part.entry))}
    return run.apart(Stretch(before.entry, (part.entry,), layouts, part.sizes))


def _beside(reading: Reading, part: Stretch, tokens: Tokens, known: Mapping[str, Tensor]) -> str:
    """Return the name of a node that depends on an input, has a token axis and reaches a stretch beside its entry;
    empty if there is none, or if all of them are computed from known padding masks."""
    flow, raw = reading.flow, raw_inputs(reading.flow)
    inside, needed = {part.entry}, set(part.exits)
    for node in list(flow.order)[flow.order[part.entry] + 1 :]:
        if inside.intersection(node.all_input_nodes):
            inside.add(node)
    for node in reversed(flow.order):
        if node in needed and node in inside and node is not part.entry:
            needed.update(node.all_input_nodes)
            for source in node.all_input_nodes:
                masks = bool(raw.get(source)) and raw[source] <= known.keys()
                if source not in inside and not masks and _holds_tokens(reading, source, tokens):
                    return str(source.name)
    return ""


def _holds_tokens(reading: Reading, node: fx.Node, tokens: Tokens) -> bool:
    flow = reading.flow
    if not flow.is_activation(node) or node not in flow.table.dims:
        return False
    return any(factor in tokens for dim in flow.of(node) for factor in flow.plain(dim))
