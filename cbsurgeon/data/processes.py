"""Several processes that share one dataset: those torchrun starts, or a group the caller has made."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def share() -> tuple[int, int]:
    """Number of this process, and of all: ``(0, 1)`` for a process on its own.

    Under torchrun, which sets ``WORLD_SIZE``, the processes are joined when this is called first.
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
    """What each process makes, in their order, in every process. What one of them raises is raised in all.

    Args:
        make: gives something that can be pickled.
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
    """What the first process makes, in every process."""
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
