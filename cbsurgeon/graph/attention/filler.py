"""Inputs that hide tokens in a way that is no attention mask: found by running a stack with some tokens hidden.

Keys, values, weights or whole branches may be multiplied by a mask of ones and zeros, a large negative number may be
added to scores whose softmax is written out, tokens may be kept apart by the number of the document they belong to.
Nothing in the graph says that such a step hides tokens, so it is tried: tokens are marked in the input, their content
is changed, and the other tokens must not move, although they do where nothing is marked.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.influence import CLOSED, Probe, later
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.attention.stretches import Stretch, Tokens, stretch
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.program import Program
from cbsurgeon.operators.common.masking import CLOSED as FAR_BELOW

MARKS = (0, 1)
"""What marks padding: a mask is 0 there, or 1, and so are the usual numbers of a padding token."""

OTHER = 2
"""A number that marks nothing, where a mask holds more than zeros and ones."""

SHARE = 0.5
"""A share that marks nothing."""

MOST_MARKS = 4
"""Numbers besides :data:`MARKS` that are tried."""

Pair = tuple[Tensor, Tensor]
"""An input without a mark, and the same with some tokens marked."""


def marking_inputs(
    program: Program,
    reading: Reading,
    members: Sequence[tuple[str, Found]],
    run: Probe,
    known: Mapping[str, Container[str]],
) -> dict[str, str]:
    """Stack → name of an input that hides tokens from the others, found by running the stack.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block, attention included.
        run: runs the stacks.
        known: stack → inputs that are known to hide its tokens; they are left out.
    """
    found: dict[str, str] = {}
    nodes = {node.name: node for node in reading.flow.order}
    marks = {name: (*MARKS, *_asked_for(program, reading, name)) for name in program.input_names}
    for stack, group in by_stack(reading, members).items():
        names = [name for name in program.input_names if name not in known.get(stack, ())]
        for tokens, own in resolutions(reading.flow, group).items():
            for name in names:
                if stack not in found and _hides_there(run, program, reading, nodes[name], tokens, own, marks[name]):
                    found[stack] = name
    return found


def _hides_there(
    run: Probe,
    program: Program,
    reading: Reading,
    given: fx.Node,
    tokens: Tokens,
    own: Sequence[Found],
    marks: Sequence[int],
) -> bool:
    """Whether an input hides tokens of some blocks from each other.

    The stretch begins at the stream of the first block, so that tokens which are replaced before it count as tokens.
    Only where nothing mixes tokens from there on does it begin further upstream.
    """
    stream = own[0].branch.stream
    assert stream is not None
    for far in (False, True):
        part = stretch(reading, stream, own[-1].branch.total, tokens, far=far)
        answer = _hides(run, program, given.name, part, marks) if part is not None and _beside(given, part) else None
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


def _asked_for(program: Program, reading: Reading, name: str) -> list[int]:
    """Whole numbers that the graph asks an input for: those it is compared with, and those for which a table holds
    zero. More than :data:`MOST_MARKS` are no padding."""
    raw, found = raw_inputs(reading.flow), list[int]()
    exported = program.exported
    tensors = {**exported.constants, **exported.state_dict}
    specs = exported.graph_signature.input_specs
    weights = {str(getattr(spec.arg, "name", "")): tensors.get(str(spec.target)) for spec in specs}
    for node in reading.flow.order:
        sources = aten.tensors(node)
        asked = [source for source in sources if name in raw.get(source, ())]
        if not asked:
            continue
        held = [one for source in sources if isinstance(one := weights.get(source.name), Tensor)]
        if aten.name(node) in ("eq", "ne"):
            found += [int(number) for number in node.args if isinstance(number, int | float)]
            found += [int(one) for one in held if one.numel() == 1]
        elif aten.name(node) in ("index", "index_select", "embedding"):
            found += [row for one in held if one.dim() and one.numel() == len(one) for row in _zeros(one)]
    kept = [mark for mark in dict.fromkeys(found) if mark not in MARKS]
    return kept if len(kept) <= MOST_MARKS else []


def _zeros(table: Tensor) -> list[int]:
    return [int(row) for row in (table.flatten() == 0).nonzero()]


def _hides(run: Probe, program: Program, name: str, part: Stretch, marks: Sequence[int]) -> bool | None:
    """Whether marking some tokens in an input hides them from the others; ``None`` where tokens do not influence each
    other with or without marks."""
    example, batched = program.example[name], name in program.batch_axes
    mixed = False
    for hidden, pairs in _trials(example, batched, part.sizes, marks):
        for plain, marked in pairs:
            open_ = run.passes(part, {name: plain}, hidden, ~hidden)
            mixed |= open_ > 0
            if open_ > 0 and run.passes(part, {name: marked}, hidden, ~hidden) <= CLOSED * open_:
                return True
    return False if mixed else None


def _trials(
    example: Tensor, batched: bool, sizes: tuple[int, ...], marks: Sequence[int]
) -> Iterator[tuple[Tensor, Iterator[Pair]]]:
    """Which tokens to hide, and the ways in which an input could say so."""
    if example.is_floating_point() and not bool((example == example.round()).all()) and bool((example < 0).any()):
        return  # a mask holds whole numbers or shares; noise does not
    count = torch.Size(sizes).numel()
    second = torch.arange(count) >= count // 2
    yield second, _lengths(example, batched, count)
    shape = example.shape[1:] if batched and example.dim() else example.shape
    if shape.numel() == count:
        for hidden in (second, ~second):
            yield hidden, _marked(example, hidden.view(shape), marks)
    elif example.shape[-2:] == (count, count):
        for hidden in (second, ~second):  # keys of the tokens that are looked at
            yield hidden, _marked(example, ~hidden[:, None] & hidden[None, :], marks)
    else:
        for axis, size in enumerate(sizes):
            rest = [one for one in shape if one > 1]
            for hidden in (later(sizes, axis), ~later(sizes, axis)):
                if rest == [size]:  # frames, of frames and patches
                    yield (
                        hidden,
                        _marked(example, hidden.view(sizes).movedim(axis, 0).flatten(1)[:, 0].view(shape), marks),
                    )
                elif len(rest) == len(sizes) and all(a % b == 0 for a, b in zip(rest, sizes, strict=True)):
                    finer = hidden.view(sizes)  # pixels, of patches
                    for place, (own, coarse) in enumerate(zip(rest, sizes, strict=True)):
                        finer = finer.repeat_interleave(own // coarse, place)
                    yield hidden, _marked(example, finer.reshape(shape), marks)


def _unlike(marks: Sequence[int]) -> int:
    """A number that marks nothing: :data:`OTHER`, or the next one that is no mark."""
    return next(number for number in range(OTHER, OTHER + len(marks) + 1) if number not in marks)


def _lengths(example: Tensor, batched: bool, count: int) -> Iterator[Pair]:
    """Inputs that hold how many tokens there are, or where one sequence ends and the next begins."""
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


def _marked(example: Tensor, hidden: Tensor, marks: Sequence[int]) -> Iterator[Pair]:
    """An input that could mark tokens, without a mark and with the hidden ones marked, in every meaning it can have.

    Args:
        example: the input.
        hidden: true where a value stands for a hidden token; broadcasts against the input.
        marks: the numbers that may mark a token.
    """
    binary = bool(((example == 0) | (example == 1)).all())
    shares = example.is_floating_point() and not binary and bool((example <= 1).all())
    for mark in marks:
        plain = example.clone()
        plain[plain == mark] = 1 - mark if binary else SHARE if shares else _unlike(marks)
        yield plain, torch.where(hidden, torch.full_like(plain, mark), plain)
    if example.is_floating_point() and bool(((example == 0) | (example < FAR_BELOW)).all()):
        plain = torch.zeros_like(example)
        yield plain, torch.where(hidden, torch.full_like(plain, torch.finfo(plain.dtype).min / 2), plain)
    if not binary and not example.is_floating_point():  # the number of a document or an image
        plain = torch.full_like(example, OTHER)
        yield plain, torch.where(hidden, torch.ones_like(plain), plain)
