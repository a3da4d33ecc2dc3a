"""Numbers that could mark padding in an input, read from what the graph does with it."""

from __future__ import annotations

from math import isfinite

from torch import Tensor

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.blocks.reading import Reading
from cbsurgeon.graph.program import Program

MARKS = (0, 1, -1)
"""Values that are tried as marks of padding: masks hold 0, 1 or -1 there, and padding ids are usually one of these."""

EQUAL, ORDERED = frozenset({"eq", "ne"}), frozenset({"lt", "le", "gt", "ge"})
COMPARISONS = EQUAL | ORDERED
FINITE = frozenset({"isnan", "isfinite", "isinf"})

MOST_MARKS = 4
"""Largest number of values besides :data:`MARKS` that are tried. If the graph has more, none of them is."""


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


def _zeros(table: Tensor) -> list[int]:
    return [int(row) for row in (table.flatten() == 0).nonzero()]
