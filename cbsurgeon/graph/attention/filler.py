"""Find padding masks that are not attention masks, by running a stack with some tokens marked as padding.

Such a mask of ones and zeros is multiplied with keys, values, weights or whole branches, or is added to scores whose
softmax is written out; or the input numbers the document that each token belongs to. The graph does not show that this
masks tokens, so it is tried: tokens are marked in the input and their content is changed. If the other tokens then do
not change, although they do when nothing is marked, the input is a mask.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.influence import CLOSED, Probe, later
from cbsurgeon.graph.attention.stretches import Stretch, Tokens, stretch
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.program import Program
from cbsurgeon.operators.common.masking import CLOSED as FAR_BELOW

MARKS = (0, 1)
"""Values that may mark padding: 0 or 1 in a mask; token ids of padding are usually 0 or 1 as well."""

OTHER = 2
"""A value that does not mark padding, for inputs that hold more than zeros and ones."""

Pair = tuple[Tensor, Tensor]
"""An input without marks, and the same input with some tokens marked."""


def marking_inputs(
    program: Program,
    reading: Reading,
    members: Sequence[tuple[str, Found]],
    run: Probe,
    known: Mapping[str, Container[str]],
) -> dict[str, str]:
    """Return stack → name of an input that masks some of its tokens, found by running the stack.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block, attention included.
        run: runs the stacks.
        known: stack → inputs that are known to be masks of its tokens; they are left out.
    """
    found: dict[str, str] = {}
    nodes = {node.name: node for node in reading.flow.order}
    for stack, group in by_stack(reading, members).items():
        names = [name for name in program.input_names if name not in known.get(stack, ())]
        for tokens, own in resolutions(reading.flow, group).items():
            for name in names:
                if stack not in found and _hides_there(run, program, reading, nodes[name], tokens, own):
                    found[stack] = name
    return found


def _hides_there(
    run: Probe, program: Program, reading: Reading, given: fx.Node, tokens: Tokens, own: Sequence[Found]
) -> bool:
    """Whether an input masks tokens of some blocks.

    The part of the program that is run starts at the stream of the first block. If no tokens are mixed from there on,
    it starts further upstream.
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
    """Whether an input reaches the exits of a stretch without passing its entry."""
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
    """Whether marking some tokens in an input masks them; ``None`` if tokens never influence each other, marked or
    not."""
    example, batched = program.example[name], name in program.batch_axes
    mixed = False
    for hidden, pairs in _trials(example, batched, part.sizes):
        for plain, marked in pairs:
            open_ = run.passes(part, {name: plain}, hidden, ~hidden)
            mixed |= open_ > 0
            if open_ > 0 and run.passes(part, {name: marked}, hidden, ~hidden) <= CLOSED * open_:
                return True
    return False if mixed else None


def _trials(example: Tensor, batched: bool, sizes: tuple[int, ...]) -> Iterator[tuple[Tensor, Iterator[Pair]]]:
    """Yield tokens to mask, ``[tokens]``, and for each the inputs that could mark them."""
    if example.dtype != torch.bool and not bool((example == example.round()).all()):
        return  # a mask holds whole numbers; positions, times and noise need not
    count = torch.Size(sizes).numel()
    second = torch.arange(count) >= count // 2
    yield second, _lengths(example, batched, count)
    shape = example.shape[1:] if batched and example.dim() else example.shape
    if shape.numel() == count:
        for hidden in (second, ~second):
            yield hidden, _marked(example, hidden.view(shape))
    elif example.shape[-2:] == (count, count):
        for hidden in (second, ~second):  # keys of the tokens that are looked at
            yield hidden, _marked(example, ~hidden[:, None] & hidden[None, :])
    else:
        for axis, size in enumerate(sizes):
            rest = [one for one in shape if one > 1]
            for hidden in (later(sizes, axis), ~later(sizes, axis)):
                if rest == [size]:  # frames, of frames and patches
                    yield hidden, _marked(example, hidden.view(sizes).movedim(axis, 0).flatten(1)[:, 0].view(shape))
                elif len(rest) == len(sizes) and all(a % b == 0 for a, b in zip(rest, sizes, strict=True)):
                    finer = hidden.view(sizes)  # pixels, of patches
                    for place, (own, coarse) in enumerate(zip(rest, sizes, strict=True)):
                        finer = finer.repeat_interleave(own // coarse, place)
                    yield hidden, _marked(example, finer.reshape(shape))


def _lengths(example: Tensor, batched: bool, count: int) -> Iterator[Pair]:
    """Pairs for an input that holds sequence lengths, or the offsets where sequences end."""
    per_sample = example[0].numel() if batched and example.dim() else example.numel()
    if per_sample == 1 and example.dim() and bool(((example >= 1) & (example <= count)).all()):
        yield torch.full_like(example, count), torch.full_like(example, count // 2)
    ends = example.flatten()
    if example.dim() == 1 and not batched and len(ends) > 2 and ends[0] == 0 and ends[-1] == count:
        plain = torch.full_like(example, count)
        plain[0] = 0
        marked = plain.clone()
        marked[1] = count // 2
        yield plain, marked


def _marked(example: Tensor, hidden: Tensor) -> Iterator[Pair]:
    """Pairs for an input that could hold a mark per token, one for every meaning of its values.

    Args:
        example: the input.
        hidden: true at the values of tokens to mask; broadcasts against the input.
    """
    binary = bool(((example == 0) | (example == 1)).all())
    for mark in MARKS:
        plain = example.clone()
        plain[plain == mark] = 1 - mark if binary else OTHER
        yield plain, torch.where(hidden, torch.full_like(plain, mark), plain)
    if example.is_floating_point() and bool(((example == 0) | (example < FAR_BELOW)).all()):
        plain = torch.zeros_like(example)
        yield plain, torch.where(hidden, torch.full_like(plain, torch.finfo(plain.dtype).min / 2), plain)
    if not binary and not example.is_floating_point():  # the number of a document or an image
        plain = torch.full_like(example, OTHER)
        yield plain, torch.where(hidden, torch.ones_like(plain), plain)
