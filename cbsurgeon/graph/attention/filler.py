"""Find inputs that hide tokens by other means than an attention mask, by running a stack.

For instance, keys, values, weights or whole branches are multiplied by a mask of zeros and ones; a large negative
number is added to scores whose softmax is written out; or tokens only attend to tokens with the same document number.
The graph does not show that such a step hides tokens, so the stack is run. Some values of the input are set to a value
that could mark padding (they are *marked*), the tokens at these positions are changed, and the other tokens are
compared. The input hides tokens if the other tokens stay the same, but change if no value is marked.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import chain
from math import isfinite

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.influence import CLOSED, Probe, later
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.attention.stretches import Layout, Stretch, Tokens, layout_of, pooled, stretch
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.program import Program
from cbsurgeon.operators.common.masking import CLOSED as FAR_BELOW

MARKS = (0, 1, -1)
"""Values that are tried as marks of padding: masks hold 0, 1 or -1 there, and padding ids are usually one of these."""

OTHER = 2
"""Value of a token that is not hidden, for inputs that hold other numbers than zeros and ones."""

SHARE = 0.5
"""Value of a token that is not hidden, for inputs of fractions between 0 and 1."""

MOST_NUMBERS = 4
"""Numbers per sample in an input that says how many tokens there are (rows and columns, a start and an end)."""

EQUAL, ORDERED = frozenset({"eq", "ne"}), frozenset({"lt", "le", "gt", "ge"})
COMPARISONS = EQUAL | ORDERED
FINITE = frozenset({"isnan", "isfinite", "isinf"})

MOST_MARKS = 4
"""Largest number of values besides :data:`MARKS` that are tried. If the graph has more, none of them is."""

Pair = tuple[Tensor, Tensor]
"""An input in which no token is marked, and the same input with some tokens marked."""


def marking_inputs(
    program: Program,
    reading: Reading,
    members: Sequence[tuple[str, Found]],
    run: Probe,
    known: Mapping[str, Container[str]],
) -> dict[str, str]:
    """Return, for each stack that has one, the name of an input that hides some tokens from the others.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block, attention included.
        run: runs the stacks.
        known: for each stack, the inputs that are already known to hide its tokens; they are not tried.
    """
    found: dict[str, str] = {}
    nodes = {node.name: node for node in reading.flow.order}
    marks = {name: (*MARKS, *_candidate_marks(program, reading, name)) for name in program.input_names}
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
    """Return whether an input hides tokens of some blocks from each other.

    The run starts at the residual stream of the first block, so that tokens that are replaced before it (masked image
    modelling) do not count as hidden. If no token influences another one from there on, the run starts further
    upstream, at the first tensor that holds these tokens.
    """
    stream = own[0].branch.stream
    assert stream is not None
    layout = layout_of(reading.flow, given, tokens, alone=True) if _may_be_absent(reading, given) else None
    both = [stretch(reading, stream, own[-1].branch.total, tokens, far=far) for far in (False, True)]
    parts = [part for part in both if part is not None]
    for part in parts:
        answer = _hides(run, program, given.name, part, marks, layout) if _bypasses_entry(given, part) else None
        if answer is not None:
            return answer
    # No token influences another one: the input may mask a mean over the tokens at the end of the model.
    ends = [end for part in parts for end in pooled(reading, part) if _bypasses_entry(given, end)]
    return any(_hides(run, program, given.name, end, marks, layout, looks=False) for end in ends)


def _may_be_absent(reading: Reading, given: fx.Node) -> bool:
    """Return whether the graph compares the values of an input with a number, or asks which of them are finite: then
    zeros, or values that are no numbers, may mean that a token is absent."""
    raw = raw_inputs(reading.flow)
    return any(
        aten.name(node) in COMPARISONS | FINITE
        and len(aten.tensors(node)) == 1
        and given.name in raw.get(aten.tensors(node)[0], ())
        for node in reading.flow.order
    )


def _bypasses_entry(given: fx.Node, part: Stretch) -> bool:
    """Return whether an input reaches an exit of a stretch without passing its entry."""
    queue, seen = [given], set[fx.Node]()
    while queue:
        node = queue.pop()
        if node in part.exits:
            return True
        if node not in seen and node is not part.entry:
            seen.add(node)
            queue += node.users
    return False


def _candidate_marks(program: Program, reading: Reading, name: str) -> list[int]:
    """Return the whole numbers, other than :data:`MARKS`, that could mark padding in an input.

    These are the numbers that the graph compares the input with, with their neighbours if it asks which is larger, and
    the rows of a table (indexed by the input) that hold zero. If there are more than :data:`MOST_MARKS` of either kind,
    none of them is taken for padding.
    """
    raw, found, near = raw_inputs(reading.flow), list[int](), list[int]()
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
        if aten.name(node) in COMPARISONS:
            numbers = [int(number) for number in node.args if isinstance(number, int | float) and isfinite(number)]
            numbers += [int(one) for one in held if one.numel() == 1 and bool(one.isfinite())]
            if aten.name(node) in EQUAL:
                found += numbers
            else:
                near += [number + step for number in numbers for step in (-1, 0, 1)]
        elif aten.name(node) in ("index", "index_select", "embedding"):
            found += [row for one in held if one.dim() and one.numel() == len(one) for row in _zeros(one)]
    kept = [[mark for mark in dict.fromkeys(some) if mark not in MARKS] for some in (found, near)]
    return [mark for some in kept if len(some) <= MOST_MARKS for mark in some]


def _zeros(table: Tensor) -> list[int]:
    return [int(row) for row in (table.flatten() == 0).nonzero()]


def _hides(
    run: Probe,
    program: Program,
    name: str,
    part: Stretch,
    marks: Sequence[int],
    own: Layout | None,
    *,
    looks: bool = True,
) -> bool | None:
    """Return whether marking some tokens in an input hides them from the others, or from the exits if these hold no
    tokens (``looks`` is false); ``None`` if tokens do not influence each other even if none is marked."""
    example, batched = program.example[name], name in program.batch_axes
    mixed = False
    for hidden, pairs in chain(_trials(example, batched, part.sizes, marks), _absent(example, own)):
        for plain, marked in pairs:
            looked = ~hidden if looks else None
            try:
                open_ = run.passes(part, {name: plain}, hidden, looked)
                mixed |= open_ > 0
                if open_ > 0 and run.passes(part, {name: marked}, hidden, looked) <= CLOSED * open_:
                    return True
            except (IndexError, RuntimeError, ValueError):  # the model does not take these values: they mark nothing
                continue
    return False if mixed else None


def _absent(example: Tensor, own: Layout | None) -> Iterator[tuple[Tensor, Iterator[Pair]]]:
    """Yield sets of tokens to hide, each with an input that holds the tokens themselves (``own`` says where), and the
    same with zeros, or with values that are no numbers, for these tokens."""
    if own is None or not example.is_floating_point():
        return
    rows = own.rows(example)

    def pairs(hidden: Tensor) -> Iterator[Pair]:
        for value in (0.0, float("nan")):
            changed = rows.clone()
            changed[hidden] = value
            yield example, own.tensor(changed, example)

    second = torch.arange(len(rows)) >= len(rows) // 2
    yield second, pairs(second)
    yield ~second, pairs(~second)


def _trials(
    example: Tensor, batched: bool, sizes: tuple[int, ...], marks: Sequence[int]
) -> Iterator[tuple[Tensor, Iterator[Pair]]]:
    """Yield sets of tokens to hide, each with the pairs of inputs that could mark these tokens."""
    if example.is_floating_point() and not bool((example == example.round()).all()) and bool((example < 0).any()):
        return  # noise; a mask holds whole numbers or fractions between 0 and 1
    count = torch.Size(sizes).numel()
    second = torch.arange(count) >= count // 2
    axes = [later(sizes, axis) for axis in range(len(sizes))] if len(sizes) > 1 else []
    for hidden in (second, *axes):
        yield hidden, _lengths(example, batched, count)
    shape = example.shape[1:] if batched and example.dim() else example.shape
    if shape.numel() == count:
        for hidden in (second, ~second):
            yield hidden, _marked(example, hidden.view(shape), marks)
    elif example.shape[-2:] == (count, count):
        for hidden in (second, ~second):  # rows: the tokens that are compared; columns: the hidden tokens
            yield hidden, _marked(example, ~hidden[:, None] & hidden[None, :], marks)
    else:
        for axis, size in enumerate(sizes):
            rest = [one for one in shape if one > 1]
            for hidden in (later(sizes, axis), ~later(sizes, axis)):
                if rest == [size]:  # one value per frame, for tokens that are frames times patches
                    yield (
                        hidden,
                        _marked(example, hidden.view(sizes).movedim(axis, 0).flatten(1)[:, 0].view(shape), marks),
                    )
                elif len(rest) == len(sizes) and all(a % b == 0 for a, b in zip(rest, sizes, strict=True)):
                    finer = hidden.view(sizes)  # one value per pixel, for tokens that are patches
                    for place, (own, coarse) in enumerate(zip(rest, sizes, strict=True)):
                        finer = finer.repeat_interleave(own // coarse, place)
                    yield hidden, _marked(example, finer.reshape(shape), marks)


def _unlike(marks: Sequence[int]) -> int:
    """Return a number that does not mark a token: :data:`OTHER`, or the next one that is not in ``marks``."""
    return next(number for number in range(OTHER, OTHER + len(marks) + 1) if number not in marks)


def _lengths(example: Tensor, batched: bool, count: int) -> Iterator[Pair]:
    """Yield pairs for inputs that hold sequence lengths, or the bounds of sequences in a row (``cu_seqlens``)."""
    per_sample = example[0].numel() if batched and example.dim() else example.numel()
    if 0 < per_sample <= MOST_NUMBERS and example.dtype != torch.bool and bool((example >= 0).all()):
        if per_sample == 1 and bool((example >= 1).all()):
            yield torch.full_like(example, count), torch.full_like(example, count // 2)
        columns = example.reshape(-1, per_sample)
        for column in range(per_sample):
            fewer = columns.clone()
            fewer[:, column] = columns[:, column] / 3 if example.is_floating_point() else columns[:, column] // 3
            if not torch.equal(fewer, columns):
                yield example, fewer.view(example.shape)
    ends = example.flatten()
    if example.dim() == 1 and not batched and len(ends) > 2 and ends[0] == 0 and ends[-1] == count:
        plain = torch.full_like(example, count)
        plain[0] = 0
        marked = plain.clone()
        marked[1] = count // 2
        yield plain, marked


def _marked(example: Tensor, hidden: Tensor, marks: Sequence[int]) -> Iterator[Pair]:
    """Yield pairs of an input without a marked token and with the hidden tokens marked, for every possible meaning.

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
    if not binary and not example.is_floating_point():  # each token may hold the number of its document or image
        plain = torch.full_like(example, OTHER)
        yield plain, torch.where(hidden, torch.ones_like(plain), plain)
