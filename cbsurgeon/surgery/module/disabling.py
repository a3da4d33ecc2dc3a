"""Temporarily run a model without its inserted operators, without removing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from cbsurgeon.errors import NothingMatched
from cbsurgeon.operators.base import Pause
from cbsurgeon.surgery.module.attachment import attached

if TYPE_CHECKING:
    from cbsurgeon.models.model import Model


@contextmanager
def disable(model: Model | nn.Module) -> Iterator[int]:
    """Context manager that skips the inserted operators in every forward pass.

    State-dict keys, hooks and parameters do not change. ``torch.compile`` recompiles as needed. When the ``with`` block
    ends, operators are enabled again, also in copies made inside the block; pickles contain enabled operators. A
    forward pass inside the block gives an operator's parameters no gradient.

    Args:
        model: a module, any part or wrapper of one, or a :class:`cbsurgeon.Model` that has one.

    Yields:
        The number of disabled operators.

    Raises:
        NothingMatched: there is no operator (CB-REMOVE-02).

    Example:
        ``with cbs.disable(model): plain = model(x)``
    """
    module = model if isinstance(model, nn.Module) else model.module
    found = [operator for *_, operator in attached(module)] if module is not None else []
    if not found:
        raise NothingMatched(
            "there is no operator to disable",
            code="CB-REMOVE-02",
            where=type(model).__name__,
            why="the model is a program, whose operators are part of its graph"
            if module is None
            else "no operator inserted by cbsurgeon was found",
            do="compare with the model before the insertion, or with cbs.remove(model)",
        )
    pause = Pause()
    before = [part.pause for part in found]
    for part in found:
        part.pause = pause
    try:
        yield len(found)
    finally:
        pause.on = False  # for copies that were made inside
        for part, own in zip(found, before, strict=True):
            part.pause = own
