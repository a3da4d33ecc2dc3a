"""Building an architecture whose weights a file brings: parameters get their shapes and no random numbers.

Drawing the weights of a model of a billion parameters takes longer than everything else that loading does, and they
are thrown away at once. Buffers and everything else a constructor computes are as they always are.
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
    """Put every parameter on the meta device as soon as a module takes it, before anything is drawn into it.

    A parameter that several modules take stays one parameter.
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
    """Whether a module built this way is what an ordinary build makes, once its state dict is filled in.

    It is not where something besides its parameters was computed from one of them, or where random numbers may have
    gone into a tensor that no file brings.

    Args:
        module: built under :func:`parameters`.
        drew: random numbers were drawn while it was built.
    """
    held = set(module.state_dict())
    if any(name not in held for name, _ in module.named_parameters(remove_duplicate=False)):
        return False
    others = [*_loose(module), *(buffer for name, buffer in module.named_buffers() if name not in held)]
    if any(tensor.is_meta for tensor in (*others, *module.buffers())):
        return False
    return not (drew and any(tensor.is_floating_point() for tensor in others))


def _loose(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules keep as plain attributes."""
    for part in module.modules():
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))


def allocate(module: nn.Module) -> None:
    """Give the parameters left on the meta device memory, which is not touched until something is written into it."""
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
