"""The conditions under which a captured program is valid: whether they hold for every batch size.

``torch.export`` refuses a symbolic batch if it cannot prove a condition for all sizes, also if it always holds:
``torch.cat([x, 2 * x]).chunk(2)`` is valid if ``(3 * batch - 1) // batch == 2``. With ``Dim.DYNAMIC``, it records such
conditions instead. Here, they are evaluated for many batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

SIZES = (*range(1, 65), *(2**power + more for power in range(7, 17) for more in (-1, 0, 1)))
"""Batch sizes for which the conditions are evaluated: all small ones, and those around the powers of two to 65,536."""


def undeclared(shapes: Any) -> Any:
    """Return ``dynamic_shapes`` in which ``torch.export`` records its conditions instead of refusing them."""
    return pytree.tree_map_only(Dim, lambda _: Dim.DYNAMIC, shapes)


@dataclass(frozen=True)
class Broken:
    """A condition that does not hold for every batch size.

    Attributes:
        sentence: the condition, and the smallest size that breaks it.
        size: the smallest size of two or more samples that breaks it.
    """

    sentence: str
    size: int


def broken(exported: ExportedProgram) -> list[Broken]:
    """Return the conditions of a program that do not hold for every batch size."""
    found = []
    for guard in _conditions(exported):
        symbols = guard.free_symbols
        sizes = [n for n in SIZES if not _holds(guard, n)]
        if sizes:
            named = guard.xreplace(dict.fromkeys(symbols, sympy.Symbol("batch")))
            several = next((n for n in sizes if n > 1), sizes[0])
            found.append(Broken(f"the program is valid if {named}, which is not so for a batch of {sizes[0]}", several))
    return found


def _holds(guard: Any, size: int) -> bool:
    """Whether a condition is true for a batch size; not if it has no value, such as a remainder by zero."""
    try:
        return guard.xreplace(dict.fromkeys(guard.free_symbols, sympy.Integer(size))) is sympy.true
    except (ArithmeticError, TypeError, ValueError):
        return False


def _conditions(exported: ExportedProgram) -> list[Any]:
    """Return the conditions that depend on the batch. They name it by one symbol, because all its sizes are equal."""
    values = (node.meta.get("val") for node in exported.graph.nodes)
    modes = {id(value.fake_mode): value.fake_mode for value in values if hasattr(value, "fake_mode")}
    found = (guard.expr for mode in modes.values() if mode.shape_env for guard in mode.shape_env.guards)
    return [one for one in found if isinstance(one, sympy.Basic) and one.free_symbols]


__all__ = ["SIZES", "Broken", "broken", "undeclared"]
