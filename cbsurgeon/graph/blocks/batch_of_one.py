"""Reject blocks whose tensors lose their batch axis when there is one sample.

``squeeze()`` removes every axis of size 1. The batch axis is symbolic in a captured program, so it stays; but if the
program, or a file made from it, is run with one sample, the axis is gone, and a mean over axis 1 would be a mean over
the channels.
"""

from __future__ import annotations

import torch
from torch import fx

from cbsurgeon.errors import pass_out_of_memory
from cbsurgeon.graph import aten
from cbsurgeon.graph.block import Rejected
from cbsurgeon.graph.blocks.near_misses import rejected
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.capture.regions import user_line
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reasons import Reason


def reject_squeezed(program: Program, reading: Reading, *, run: bool) -> None:
    """Move blocks from the found ones to the rejected ones if a tensor of theirs has another number of axes for one
    sample.

    Args:
        program: the captured program.
        reading: what was read from it; changed in place.
        run: whether the program can be run. If not, every block behind such a ``squeeze`` is rejected.
    """
    squeezes = [node for node in reading.flow.order if _may_remove_batch(node)]
    behind = {id(one): _first_behind(reading, one, squeezes) for one in reading.found} if squeezes else {}
    if not any(behind.values()):
        return
    ranks = _ranks(program, [name for one in reading.found if behind[id(one)] for name in _names(one)]) if run else {}
    kept: list[Found] = []
    for one in reading.found:
        cause, name = behind[id(one)], one.branch.total.name
        if cause is None or (run and all(_same_rank(reading, ranks, each) for each in _names(one))):
            kept.append(one)
        else:
            reading.rejected[one.branch.last.core] = _rejected(reading, one, cause, ranks.get(name))
    reading.found[:] = kept


def _may_remove_batch(node: fx.Node) -> bool:
    """Whether a node is a ``squeeze`` of an axis whose size is the number of samples."""
    source = next(iter(aten.tensors(node)), None) if aten.name(node) == "squeeze" else None
    value = aten.value(source) if source is not None else None
    if value is None:
        return False
    where = aten.argument(node, 1, "dim")
    places = range(value.dim()) if where is None else [where] if isinstance(where, int) else list(where)  # type: ignore[call-overload]
    return any(isinstance(value.shape[place], torch.SymInt) for place in places)


def _first_behind(reading: Reading, one: Found, squeezes: list[fx.Node]) -> fx.Node | None:
    """The first of some nodes that a block's result is computed from."""
    queue, seen = [one.branch.total], set[fx.Node]()
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            queue += node.all_input_nodes
    return next((node for node in squeezes if node in seen), None)


def _names(one: Found) -> list[str]:
    """The names of the tensors whose axes are the block's: the result of its residual add, and its sites."""
    return [one.branch.total.name, *(site.uses[0].value for site in one.sites.values())]


def _ranks(program: Program, names: list[str]) -> dict[str, int]:
    """The number of axes of some tensors for one sample; of none if the program cannot be run with one sample."""
    try:
        found = Execution(program).values(program.with_batch(1), names)
    except (IndexError, RuntimeError, ValueError) as error:
        pass_out_of_memory(error)
        return {}
    return {name: value.dim() for name, value in found.items()}


def _same_rank(reading: Reading, ranks: dict[str, int], name: str) -> bool:
    node = next(node for node in reading.flow.order if node.name == name)
    value = aten.value(node)
    return value is not None and ranks.get(name, value.dim()) == value.dim()


def _rejected(reading: Reading, one: Found, cause: fx.Node, rank: int | None) -> Rejected:
    value = aten.value(one.branch.total)
    assert value is not None
    shown = f"has {rank} axes instead of {value.dim()}" if rank is not None else "may have fewer axes"
    line = user_line(cause)
    detail = f"for one sample, {cause.name} removes the batch axis, so that {one.branch.total.name} {shown}"
    return rejected(reading, one.branch, Reason.BATCH_SQUEEZED, detail + (f" ({line})" if line else ""), 4)
