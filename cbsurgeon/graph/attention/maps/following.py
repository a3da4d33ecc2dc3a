"""Follow one axis of a tensor into the result of an operator."""

from __future__ import annotations

import math
from string import ascii_letters
from typing import Any, NamedTuple

import torch
from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow

_MOVES = frozenset("permute transpose t numpy_T mT movedim".split())
_REGROUPS = frozenset("view reshape _unsafe_view flatten unflatten view_as reshape_as unsqueeze squeeze".split())


class Operand(NamedTuple):
    """The axes of one operand of a product of two tensors.

    Attributes:
        other: the other operand.
        contracted: axes that are contracted with axes of the other operand.
        shared: axes that the other operand and the result have as well (batch, heads).
        own: axes that the result has and the other operand does not have.
    """

    other: fx.Node
    contracted: tuple[int, ...]
    shared: tuple[int, ...]
    own: tuple[int, ...]


def pair(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two factors of a matrix product or einsum; ``None`` for other nodes."""
    name = aten.name(node)
    if name == "einsum":
        given = node.args[1]
        sources = list(given) if isinstance(given, list | tuple) else []
    elif name in aten.MATMUL:
        sources = list(node.args[1:3] if name == "baddbmm" else node.args[:2])
    else:
        return None
    if len(sources) != 2 or not all(isinstance(one, fx.Node) and aten.value(one) is not None for one in sources):
        return None
    return sources[0], sources[1]


def operand(flow: Flow, node: fx.Node, source: fx.Node) -> Operand | None:
    """Return the axes of ``source`` in the product ``node``; ``None`` if it is not a product of two tensors."""
    factors = pair(node)
    if factors is None or source not in factors:
        return None
    left = source is factors[0]
    other = factors[1 if left else 0]
    rank = len(flow.table.sizes(source))
    if aten.name(node) == "einsum":
        return _by_letters(node, 0 if left else 1, other)
    if rank < 2 or len(flow.table.sizes(other)) < 2:
        return None
    contracted, own = (rank - 1, rank - 2) if left else (rank - 2, rank - 1)
    return Operand(other, (contracted,), tuple(range(rank - 2)), (own,))


def _letters(node: fx.Node) -> tuple[list[str], str] | None:
    """Return the terms of an einsum and its result, with a letter for every axis that ``...`` stands for."""
    equation = str(node.args[0]).replace(" ", "")
    factors = pair(node)
    if factors is None or "->" not in equation:
        return None
    left, out = equation.split("->")
    terms = left.split(",")
    free = [letter for letter in ascii_letters if letter not in equation]
    most = 0
    for place, (term, factor) in enumerate(zip(terms, factors, strict=False)):
        if "..." in term:
            count = aten.value(factor).dim() + 3 - len(term)  # type: ignore[union-attr]
            most = max(most, count)
            terms[place] = term.replace("...", "".join(reversed(free[:count])))  # aligned at the last axis
    return terms, out.replace("...", "".join(reversed(free[:most])))


def _by_letters(node: fx.Node, place: int, other: fx.Node) -> Operand | None:
    letters = _letters(node)
    if letters is None or len(letters[0]) != 2:
        return None
    terms, out = letters
    mine, theirs = terms[place], terms[1 - place]
    return Operand(
        other,
        tuple(i for i, letter in enumerate(mine) if letter in theirs and letter not in out),
        tuple(i for i, letter in enumerate(mine) if letter in theirs and letter in out),
        tuple(i for i, letter in enumerate(mine) if letter not in theirs and letter in out),
    )


def moved(flow: Flow, source: fx.Node, axis: int, user: fx.Node) -> int | None:
    """Return the axis of ``user``'s result that is ``axis`` of its operand ``source``; ``None`` if it is summed or
    lost."""
    name, before, after = aten.name(user), flow.table.sizes(source), flow.table.sizes(user)
    if name == "einsum":
        return _moved_by_letters(user, source, axis)
    if name in aten.MATMUL:
        part = operand(flow, user, source)
        if part is None or axis in part.contracted:
            return None
        if axis in part.shared:
            return axis + len(after) - len(before)
        return len(after) - 2 if source is (pair(user) or (None,))[0] else len(after) - 1
    if user in flow.projections:
        if name in aten.CONVOLUTION:
            return axis if axis != 1 else None
        return axis if axis != len(before) - 1 else None
    if name in _MOVES:
        numbered = torch.empty(tuple(range(1, len(before) + 1)), device="meta")  # the size of an axis is its number
        target: Any = user.target
        result = target(*(numbered if arg is source else arg for arg in user.args), **user.kwargs)
        return list(result.shape).index(axis + 1)
    if name in _REGROUPS:
        return _regrouped(before, after, axis)
    if name == "select":
        gone = aten.argument(user, 1, "dim")
        place = gone % len(before) if isinstance(gone, int) else axis
        return None if place == axis else axis - (place < axis)
    if name in aten.REDUCE and len(before) != len(after):
        return None
    found = axis + len(after) - len(before)
    return found if found >= 0 else None


def _moved_by_letters(node: fx.Node, source: fx.Node, axis: int) -> int | None:
    letters, factors = _letters(node), pair(node)
    if letters is None or factors is None or source not in factors:
        return None
    letter = letters[0][factors.index(source)][axis]
    return letters[1].index(letter) if letter in letters[1] else None


def _regrouped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The index of an axis after a ``view``: the axis of the same size with as many elements behind it."""
    behind = math.prod(before[axis + 1 :])
    found = [
        place for place, size in enumerate(after) if size == before[axis] and math.prod(after[place + 1 :]) == behind
    ]
    if not found:
        return None
    # Several axes of size one match: take the one with the most similar number of axes behind it.
    return min(found, key=lambda place: abs((len(after) - place) - (len(before) - axis)))
