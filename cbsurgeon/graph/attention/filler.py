"""Inputs that hide tokens in a way that is no attention mask: found by running a stack with some tokens hidden.

Keys, values, weights or whole branches may be multiplied by a mask of ones and zeros. Nothing in the graph says that
such a product hides padding, so it is tried: tokens are marked in the input, their content is changed, and the other
tokens must not move, although they do where nothing is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx

from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.influence import CLOSED, Probe, Stretch, stretch
from cbsurgeon.graph.axes.table import Dim
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reading import Found, Reading

MARKS = (0, 1)
"""What marks padding: a mask is 0 there, or 1, and so are the usual numbers of a padding token."""


def marking_inputs(
    program: Program, reading: Reading, members: Sequence[tuple[str, Found]], run: Probe
) -> dict[str, str]:
    """Stack → name of an input that hides tokens from the others, found by running the stack.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block to look at, attention included.
        run: runs the stacks.
    """
    found: dict[str, str] = {}
    nodes = {node.name: node for node in reading.flow.order}
    for stack, group in by_stack(reading, members).items():
        for tokens, own in resolutions(reading.flow, group).items():
            for name in program.input_names:
                if stack not in found and _hides_there(run, program, reading, nodes[name], tokens, own):
                    found[stack] = name
    return found


def _hides_there(
    run: Probe, program: Program, reading: Reading, given: fx.Node, tokens: tuple[Dim, ...], own: Sequence[Found]
) -> bool:
    """Whether an input hides tokens of some blocks from each other.

    The stretch begins at the stream of the first block, so that tokens which are replaced before it count as tokens.
    Only where nothing mixes tokens from there on does it begin further upstream.
    """
    stream = own[0].branch.stream
    assert stream is not None
    for far in (False, True):
        part = stretch(reading, stream, own[-1].branch.total, tokens, far=far)
        answer = _hides(run, program, given.name, part) if part is not None and _beside(given, part) else None
        if answer is not None:
            return answer
    return False


def _beside(given: fx.Node, part: Stretch) -> bool:
    """Whether an input reaches a stretch without passing its entry."""
    queue, seen = [given], set[fx.Node]()
    while queue:
        node = queue.pop()
        if node in part.exits:
            return True
        if node not in seen and node is not part.entry:
            seen.add(node)
            queue += node.users
    return False


def _hides(run: Probe, program: Program, name: str, part: Stretch) -> bool | None:
    """Whether marking one half of the tokens in an input hides them from the other half; ``None`` where tokens do not
    influence each other with or without marks."""
    half, count = part.count // 2, part.count
    mixed = False
    for hidden, looked in (((0, half), (half, count)), ((half, count), (0, half))):
        for plain, marked in _marked(program.example[name], name in program.batch_axes, count, hidden):
            open_ = run.passes(part, {name: plain}, hidden, looked)
            mixed |= open_ > 0
            if open_ > 0 and run.passes(part, {name: marked}, hidden, looked) <= CLOSED * open_:
                return True
    return False if mixed else None


def _marked(example: Tensor, batched: bool, count: int, hidden: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """An input that could mark tokens, without a mark and with the hidden ones marked."""
    per_sample = example[0].numel() if batched and example.dim() else 0
    if example.dtype != torch.bool and not bool((example == example.round()).all()):
        return
    if example.dim() == 1 and hidden[1] == count and bool(((example >= 1) & (example <= count)).all()):
        yield torch.full_like(example, count), torch.full_like(example, hidden[0])  # the length of each sample
    if per_sample != count:
        return
    binary = bool(((example == 0) | (example == 1)).all())
    for mark in MARKS:
        plain = example.clone()
        plain[plain == mark] = 1 - mark if binary else 2
        marked = plain.clone()
        marked.reshape(len(marked), -1)[:, hidden[0] : hidden[1]] = mark
        yield plain, marked
