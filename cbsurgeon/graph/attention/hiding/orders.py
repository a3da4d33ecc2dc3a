"""Orders of the tokens that differ between samples.

Together, samples with different orders show no order: each token sees each other in some sample. Such an order is
computed from an input, so it reaches the stack beside the residual stream. If something does, single samples are run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.hiding.crossing import beside
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.stretches import Stretch, stretch
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
            if part is None or not (crossing := beside(reading, part, tokens, whole)):
                continue
            before = stretch(reading, stream, own[-1].branch.total, tokens, far=True)
            if any(run.ordered(part, whole, sample) for sample in range(MOST_SAMPLES)) and _starts_apart(
                run, before, part
            ):
                found[stack] = f"in a single sample, {crossing} decides which tokens see which"
    return found


def _without_padding(example: Tensor, mask: Mask) -> Tensor:
    return torch.ones_like(example) if mask.valid == "nonzero" else torch.zeros_like(example)


def _starts_apart(run: Probe, before: Stretch | None, part: Stretch) -> bool:
    """Return whether the tokens do not see each other before they enter a stretch."""
    if before is None or before.entry is part.entry:
        return True
    layouts = {node: one.layouts[node] for one, node in ((before, before.entry), (part, part.entry))}
    return run.apart(Stretch(before.entry, (part.entry,), layouts, part.sizes))
