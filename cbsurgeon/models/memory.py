"""Limit the memory that building a model may take; a model that needs more is refused before it is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from cbsurgeon.errors import UsageError

SHARE = 0.8
"""Share of the machine's memory for a model that the user names; the rest is for the program and a forward pass."""
FILE_BASE, FILE_TIMES = 1 << 29, 8
"""A file may ask for half a gibibyte and eight times its size: weights in float16 become float32, masks and example
inputs come on top. A small file that asks for more was not written by a training script."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def of_machine() -> int:
    """Return the default limit in bytes for a model that is built from its name."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62
    try:
        limit = _CGROUP.read_text().strip()
    except OSError:
        limit = ""
    return int(SHARE * min(total, int(limit) if limit.isdecimal() else total))


def free() -> int:
    """Return the bytes that this process can still allocate; the machine, its group or the process may limit them."""
    found = [1 << 62]
    with suppress(OSError, ValueError, IndexError):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):
        found.append(int(_CGROUP.read_text()) - int(_CGROUP.with_name("memory.current").read_text()))
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit - pages * resource.getpagesize())
    return max(0, min(found))


def of_file(size: int) -> int:
    """Return the default limit in bytes for a model that a file of some size describes."""
    return FILE_BASE + FILE_TIMES * size


@contextmanager
def limited(limit: int, where: str, *, temporaries: bool = True) -> Iterator[None]:
    """Context manager in which a model is built: limits the bytes of parameters, buffers and example inputs together.

    Parameters are counted when a module registers them, which is before anything is written into them.

    Args:
        limit: the limit in bytes.
        where: the model, for the message.
        temporaries: also refuse any other single tensor above the limit. Not used for a user's own code, which may use
            torch in ways that cannot be watched.

    Raises:
        UsageError: the model needs more (``CB-LOAD-26``).
    """
    held: dict[int, Tensor] = {}
    total = 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal total
        if tensor is None or id(tensor) in held:
            return
        held[id(tensor)] = tensor  # kept, so that no other tensor gets its identity
        total += tensor.nbytes
        if total > limit:
            raise _refusal(total, limit, where, f"up to {type(module).__name__}.{name}, before the model is complete")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        if temporaries:
            stack.enter_context(_Watch(limit, where))
        yield


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses a single tensor above the limit: before it is made if its size is an argument, otherwise right after."""

    def __init__(self, limit: int, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.where = limit, where

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        size = args[0] if args else None
        if isinstance(size, list | tuple) and all(isinstance(extent, int) for extent in size):
            width = torch.empty((), dtype=kwargs.get("dtype"), device="meta").element_size()
            self._check(math.prod(size) * width)
        result = function(*args, **kwargs)
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._check(tensor.untyped_storage().nbytes())
        return result

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise _refusal(size, self.limit, self.where, "for a single tensor")


def _refusal(size: int, limit: int, where: str, what: str) -> UsageError:
    return UsageError(
        "building the model would take too much memory",
        code="CB-LOAD-26",
        where=where,
        why=f"{shown(size)} {what}; the limit is {shown(limit)}",
        do=f"use a smaller --input, img_size or batch; or raise the limit: --max-memory {above(size)}GB",
    )


def shown(size: int) -> str:
    """Return a size as text, in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def above(size: int) -> int:
    """Twice a size in whole gigabytes, because counting stopped before the model was complete."""
    return max(1, math.ceil(2 * size / 1e9))
