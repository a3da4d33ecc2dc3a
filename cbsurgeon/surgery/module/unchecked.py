"""A hook of the whole model that warns if ``forward()`` gets an input that the insertion did not see.

Whether an input hides tokens (a padding mask, a causal flag) is tested on the inputs that the model is captured with. A
mask that is given for the first time during training would hide padding from every layer but the inserted operators.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.surgery.module.reaching import reaches


class Unchecked:
    """Warns once about each input of ``forward()`` that the insertion did not see and that the operators depend on.

    Args:
        names: parameters of ``forward()`` that the inputs of the insertion gave.
        positions: the names of all positional parameters, in order.
    """

    def __init__(self, names: Iterable[str], positions: Iterable[str]) -> None:
        self.names, self.positions = frozenset(names), tuple(positions)

    def look(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Pre-hook: warn about new inputs that change what the operators see. ``None`` and ``False`` are no inputs."""
        given = {**dict(zip(self.positions, args, strict=False)), **kwargs}
        new = [name for name, value in given.items() if name not in self.names and _says_something(value)]
        if not new:
            return
        self.names = frozenset([*self.names, *new])  # not |=, which torch.compile of torch 2.11 cannot trace
        if not torch.compiler.is_compiling():
            places = [name if name in kwargs else self.positions.index(name) for name in new]
            found = [reaches(module, args, kwargs, place) for place in places]
            new = [name for name, reached in zip(new, found, strict=True) if reached is not False]
        if not new:
            return
        what = ", ".join(new)
        warnings.warn(
            f"forward() is given {what}, which the inputs of the insertion did not contain: whether this hides tokens "
            "(padding, or later tokens) was not checked, and a mean over all tokens would show them. "
            f"Remove the operators and insert them with {what} in inputs=, or do not give it",
            stacklevel=2,
        )


def _says_something(value: Any) -> bool:
    """Whether a value is a tensor, contains one, or switches something on."""
    if isinstance(value, Mapping):
        return any(map(_says_something, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_says_something, value))
    return isinstance(value, Tensor) or value is True


def watch(module: nn.Module, names: Collection[str]) -> None:
    """Let a model warn about inputs other than those of an insertion, if its ``forward()`` takes any.

    Args:
        module: the whole model; a hook is registered on it, in place.
        names: parameters of ``forward()`` that the inputs of the insertion gave.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    known = frozenset(names).intersection(*(hook.names for hook in _hooks(module)))
    forget(module)
    if names and any(one.name not in known and one.kind is not one.VAR_POSITIONAL for one in parameters):
        positions = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        module.register_forward_pre_hook(Unchecked(known, positions).look, with_kwargs=True)


def forget(module: nn.Module) -> None:
    """Remove the hooks of :func:`watch`, in place."""
    for key in [key for key, hook in module._forward_pre_hooks.items() if _owner(hook) is not None]:
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)


def _hooks(module: nn.Module) -> list[Unchecked]:
    return [owner for hook in module._forward_pre_hooks.values() if (owner := _owner(hook)) is not None]


def _owner(hook: Any) -> Unchecked | None:
    owner = getattr(hook, "__self__", None)
    return owner if isinstance(owner, Unchecked) else None
