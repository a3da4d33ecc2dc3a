"""Run a module with other tensors in place of its parameters and buffers, without changing it."""

from __future__ import annotations

from collections.abc import Mapping
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
