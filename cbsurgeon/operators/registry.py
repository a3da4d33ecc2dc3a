"""Operators by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from cbsurgeon.errors import UsageError
from cbsurgeon.operators.base import Operator
from cbsurgeon.operators.context import CB, CBS

_OPERATORS: dict[str, type[Operator]] = {cls.name: cls for cls in (CB, CBS)}


def names() -> tuple[str, ...]:
    """The built-in operator names, in the order they are documented."""
    return tuple(_OPERATORS)


def operator_class(name: str) -> type[Operator]:
    """The class behind an operator name.

    Raises:
        UsageError: the name is unknown; the nearest names are given.
    """
    try:
        return _OPERATORS[name]
    except KeyError:
        near = difflib.get_close_matches(name, _OPERATORS, n=2, cutoff=0.3) or list(_OPERATORS)
        raise UsageError(
            f"unknown operator {name!r}",
            code="CB-OP-01",
            where="--op",
            why=f"the operators are {', '.join(_OPERATORS)}",
            do=f"did you mean {' or '.join(near)}?",
        ) from None


def build(
    name: str, channels: int, channel_axis: int, token_axes: Sequence[int], options: dict[str, Any] | None = None
) -> Operator:
    """Make one operator for one site.

    Raises:
        UsageError: unknown name, or options the operator does not take.
    """
    cls = operator_class(name)
    try:
        return cls(channels, channel_axis, token_axes, **(options or {}))
    except TypeError as error:
        raise UsageError(
            f"operator {name} does not take these options",
            code="CB-OP-02",
            where=", ".join(options or {}),
            why=str(error).replace(f"{cls.__name__}.__init__() ", ""),
            do="see `cbsurgeon insert --help`",
        ) from None
