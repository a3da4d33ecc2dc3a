"""Build an architecture without weights, if they come from a file: parameters get shapes and no random numbers.

Initialising a model of a billion parameters takes longer than the rest of loading, and the values are replaced at once.
Buffers and everything else that a constructor computes are the same as in an ordinary build.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakIdKeyDictionary


@contextmanager
def parameters() -> Iterator[None]:
    """Context manager that moves every parameter to the meta device when a module registers it, before initialisation.

    A parameter that several modules register stays one parameter.
    """
    twins = WeakIdKeyDictionary()

    def stand_in(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if type(parameter) is not nn.Parameter or parameter.is_meta:
            return None
        if parameter not in twins:
            twin = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            vars(twin).update(vars(parameter))
            twins[parameter] = twin
        return twins[parameter]  # type: ignore[no-any-return]

    hook = register_module_parameter_registration_hook(stand_in)  # type: ignore[arg-type]  # it may return one
    try:
        yield
    finally:
        hook.remove()


def complete(module: nn.Module, *, drew: bool) -> bool:
    """Whether a module that was built this way is complete after its state dict is loaded.

    It is not if something besides its parameters was computed from one of them, or if random numbers may have gone into
    a tensor that is not in the state dict.

    Args:
        module: built under :func:`parameters`.
        drew: whether random numbers were drawn while it was built.
    """
    held = set(module.state_dict())
    if any(name not in held for name, _ in module.named_parameters(remove_duplicate=False)):
        return False
    others = [*_loose(module), *(buffer for name, buffer in module.named_buffers() if name not in held)]
    if any(tensor.is_meta for tensor in (*others, *module.buffers())):
        return False
    return not (drew and any(tensor.is_floating_point() for tensor in others))


def _loose(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that are plain attributes of modules."""
    for part in module.modules():
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))


def allocate(module: nn.Module) -> None:
    """Allocate memory for the parameters on the meta device; it is not touched until something is written into it."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in made:
                real = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
                vars(real).update(vars(parameter))
                made[id(parameter)] = real
            part._parameters[name] = made[id(parameter)]
