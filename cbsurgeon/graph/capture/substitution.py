"""Run or trace a module without changing it: with other tensors in place of its own, or with buffers of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def call_with(module: nn.Module, state: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the module's output with other parameters and buffers; shared tensors are replaced everywhere.

    ``torch.func.functional_call`` restores what it replaced name by name. A module with two names would keep the
    replacement, so each module is named only once here.

    Args:
        module: what to run; unchanged afterwards.
        state: name, as in ``named_parameters`` and ``named_buffers``, → the tensor to run with.
        args: positional inputs.
        kwargs: keyword inputs.
    """
    names = {name: id(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    replacement = {names[name]: tensor for name, tensor in state.items()}
    own = {
        f"{path}.{name}" if path else name: replacement[id(tensor)]
        for path, part in module.named_modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and id(tensor) in replacement
    }
    return torch.func.functional_call(module, own, args, dict(kwargs), tie_weights=False)


@contextmanager
def own_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers of every module: while it is traced, a model may register tensors without values."""
    before = [(part, dict(part._buffers), set(part._non_persistent_buffers_set)) for part in module.modules()]
    try:
        yield
    finally:
        for part, buffers, temporary in before:
            part._buffers.clear()
            part._buffers.update(buffers)
            part._non_persistent_buffers_set.clear()
            part._non_persistent_buffers_set.update(temporary)
