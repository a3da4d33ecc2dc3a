"""Sharing one dataset among several processes: those of torchrun, or an existing process group."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def share() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; ``(0, 1)`` for a single process.

    Under torchrun (``WORLD_SIZE`` is set), the first call initializes the process group.
    """
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ:
            return 0, 1
        dist.init_process_group("gloo")
        atexit.register(_leave)
    return dist.get_rank(), dist.get_world_size()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def gathered(make: Callable[[], Value]) -> list[Value]:
    """Return the results of ``make`` of all processes, in the order of their ranks, in every process.

    An exception in one process is raised in all of them.

    Args:
        make: returns a picklable value.
    """
    if share()[1] == 1:
        return [make()]
    held: Any
    try:
        held = make()
    except Exception as error:  # the others must not wait for this process
        held = error
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, held)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def from_first(make: Callable[[], Value]) -> Value:
    """Call ``make`` in the first process and return its result in every process."""
    rank, count = share()
    if count == 1:
        return make()
    held: list[Any] = [None]
    if rank == 0:
        try:
            held = [make()]
        except Exception as error:
            held = [error]
    dist.broadcast_object_list(held, src=0)
    if isinstance(held[0], BaseException):
        raise held[0]
    return held[0]  # type: ignore[no-any-return]
