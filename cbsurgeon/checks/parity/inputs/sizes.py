"""Axes other than the batch whose size is dynamic: a comparison says which sizes it covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cbsurgeon.checks.parity.inputs.feed import Feed
from cbsurgeon.deploy.artifact import Port


def sizes_compared(
    sides: Sequence[Sequence[Port]], compared: Sequence[Feed], batch_axes: Mapping[str, int]
) -> tuple[str, ...]:
    """Return one sentence per input that takes other sizes than those compared.

    Two models may agree at one size and differ at another, for example in the rows of a position table that only longer
    inputs read.

    Args:
        sides: the inputs of each model. An axis is dynamic if one of them says so.
        compared: the inputs that were run.
        batch_axes: input name → batch axis.
    """
    notes = {}
    for port in (port for ports in sides for port in ports):
        tensors = [feed.tensors[port.name] for feed in compared if port.name in feed.tensors]
        free = [
            (axis, dim)
            for axis, dim in enumerate(port.dims)
            if isinstance(dim, str) and axis != batch_axes.get(port.name) and all(axis < one.dim() for one in tensors)
        ]
        if tensors and free:
            said = [f"{dim} = {_listed({tensor.shape[axis] for tensor in tensors})}" for axis, dim in free]
            notes[port.name] = f"{port.name}: compared only at {', '.join(said)}; give other sizes with --inputs"
    return tuple(notes.values())


def _listed(values: set[int]) -> str:
    return " and ".join(map(str, sorted(values)))
