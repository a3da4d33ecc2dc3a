"""Whether an input of ``forward()`` changes what the inserted operators see.

Labels and switches for further outputs do not; a padding mask does. The model is run on the inputs at hand, without the
input, and with the input changed, because a mask may hide nothing in one batch and padding in the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.operators import Operator

DIFFERENCE = 1e-3
"""Relative L2 distance from which two tensors at an operator are different; rounding on a GPU stays below."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def reaches(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int | str) -> bool | None:
    """Return whether one argument changes the input of any inserted operator; ``None`` if that cannot be found out.

    Parameters, buffers, training flags and random numbers stay as they are. Other hooks of the layers run as well.

    Args:
        module: an edited module.
        args, kwargs: what its ``forward()`` is given.
        place: index of the argument in ``args``, or its name in ``kwargs``.
    """
    value = kwargs[place] if isinstance(place, str) else args[place]
    others = [None, pytree.tree_map(_changed, value)]
    try:
        with _undisturbed(module):
            given, *found = [_seen(module, args, kwargs, place, one) for one in (value, *others)]
    except Exception:  # the code of a model may raise anything, and what it needs is not known here
        return None
    return any(_differ(given, one) for one in found)


def _seen(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int | str, value: Any
) -> list[Tensor]:
    """Run the module with another value of one argument; return the inputs of its operators."""
    if isinstance(place, str):
        kwargs = {**kwargs, place: value}
    else:
        args = (*args[:place], value, *args[place + 1 :])
    own_args, own_kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for part in module.modules():
            if isinstance(part, Operator):
                handle = part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
                stack.callback(handle.remove)
        module.forward(*own_args, **own_kwargs)
    return seen


def _changed(leaf: Any) -> Any:
    """Return another value: every second element of a tensor differs, and stays a valid index; a switch is off."""
    if not isinstance(leaf, Tensor):
        return None if leaf is True else leaf
    flat = leaf.clone().reshape(-1)
    some = flat[::2]
    flat[::2] = ~some if leaf.dtype == torch.bool else (some == 0).to(leaf.dtype)
    return flat.reshape(leaf.shape)


def _differ(first: list[Tensor], second: list[Tensor]) -> bool:
    if [one.shape for one in first] != [one.shape for one in second]:
        return True
    for a, b in zip(first, second, strict=True):
        gap, size = (torch.linalg.vector_norm(one.double()) for one in (a - b, a))
        if not bool(gap <= DIFFERENCE * size):  # also if not a number
            return True
    return False


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Run a module in evaluation mode without gradients; put its flags, buffers and random numbers back afterwards."""
    flags = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = {one.device.index for one in module.parameters() if one.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=sorted(devices)):
            for part, _ in flags:
                part.training = False
            yield
    finally:
        for part, flag in flags:
            part.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
