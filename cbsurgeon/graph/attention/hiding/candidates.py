"""Numbers that could mark padding in an input, read from what the graph does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.blocks.reading import Reading
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.program import Program

MARKS = (0, 1, -1)
"""Values that are tried as marks of padding: masks hold 0, 1 or -1 there, and padding ids are usually one of these."""

EQUAL, ORDERED = frozenset({"eq", "ne"}), frozenset({"lt", "le", "gt", "ge"})
COMPARISONS = EQUAL | ORDERED
FINITE = frozenset({"isnan", "isfinite", "isinf"})

MOST_MARKS = 4
"""Largest number of values besides :data:`MARKS` that are tried. If the graph has more, none of them is."""

MOST_TOLD = 4
"""Largest number of numbers that :func:`told_apart` returns besides the ordinary one."""

UNBOUNDED = 1024
"""How many numbers are tried if the graph looks up no table."""


def candidate_marks(program: Program, reading: Reading, name: str) -> list[int]:
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


def told_apart(program: Program, reading: Reading, name: str) -> list[int]:
    """Return numbers that the graph tells apart in an input with one whole number per token: first an ordinary one, and
    then up to :data:`MOST_TOLD` others, each with another answer to a question that the graph asks of each number (a
    comparison, a remainder, a row of a table).

    All numbers for which there is an embedding are tried. The list is empty if the graph asks nothing.
    """
    example, raw = program.example[name], raw_inputs(reading.flow)
    if (
        example.is_floating_point()
        or example.dtype == torch.bool
        or name not in program.batch_axes
        or example.dim() != 2
    ):
        return []
    asking = [
        node
        for node, names in raw.items()
        if names == {name} and _is_answer(reading, raw, node) and _per_token(node) == example.shape[1]
    ]
    if not asking:
        return []
    numbers = _numbers(reading, name)
    rows = -(-numbers // example.shape[1])
    tried = (torch.arange(rows * example.shape[1]) % numbers).view(rows, -1).to(example.dtype)
    mixed = torch.randperm(tried.numel(), generator=torch.Generator().manual_seed(0))
    answers, execution = [], Execution(program)
    for node in asking:
        try:
            alone, moved = (
                execution.values({name: given}, [node.name])[node.name]
                for given in (tried, tried.flatten()[mixed].view_as(tried))
            )
        except (IndexError, KeyError, RuntimeError):  # the batch is a plain number, or it needs another input
            continue
        if alone.numel() == tried.numel() and torch.equal(alone.flatten()[mixed], moved.flatten()):
            answers.append((alone != 0).flatten()[:numbers])
    return _told(answers, [mark for mark in candidate_marks(program, reading, name) if 0 <= mark < numbers])


def _told(answers: Sequence[Tensor], more: Sequence[int]) -> list[int]:
    """One number with the usual answer to all questions, and for each question one with the other answer, and more."""
    rare = [one if 2 * int(one.sum()) <= len(one) else ~one for one in answers]
    rare = sorted((one for one in rare if bool(one.any())), key=lambda one: int(one.sum()))
    usual = ~torch.stack(rare).any(0) if rare else torch.zeros(0, dtype=torch.bool)
    if not bool(usual.any()):
        return []
    usual[list(more)] = False
    others = dict.fromkeys([*(int(one.nonzero()[0]) for one in rare), *more])
    return [int(usual.nonzero()[-1]), *list(others)[:MOST_TOLD]] if bool(usual.any()) else []


def _is_answer(reading: Reading, raw: Mapping[fx.Node, frozenset[str]], node: fx.Node) -> bool:
    """Whether a node holds truth values, or is combined with something else that is computed from inputs."""
    value = aten.value(node)
    beside = [source for user in node.users for source in aten.tensors(user) if reading.flow.is_activation(source)]
    return value is not None and (value.dtype == torch.bool or any(raw.get(one) != raw[node] for one in beside))


def _per_token(node: fx.Node) -> int:
    """The number of values per sample; 0 if it is not known."""
    value = aten.value(node)
    rest = value.shape[1:] if value is not None and value.dim() else ()
    return prod(rest) if rest and all(isinstance(size, int) for size in rest) else 0


def _numbers(reading: Reading, name: str) -> int:
    """The number of rows of the smallest table that the input looks up, or :data:`UNBOUNDED`."""
    raw = raw_inputs(reading.flow)
    tables = [
        len(table)
        for node in reading.flow.order
        if aten.name(node) == "embedding" and name in raw.get(aten.tensors(node)[1], ())
        if (table := aten.value(aten.tensors(node)[0])) is not None
    ]
    return min(tables, default=UNBOUNDED)


def _zeros(table: Tensor) -> list[int]:
    return [int(row) for row in (table.flatten() == 0).nonzero()]
