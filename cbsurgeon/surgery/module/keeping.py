"""Keeps operators at their sites when a layer is wrapped, unwrapped or replaced after the insertion.

LoRA replaces a linear layer by a wrapper, and merging puts the layer back; quantisation replaces it by another layer.
An operator belongs to an attribute of the parent module: to the input or the output of the layer that is stored there.
Before the parent runs or is saved, the operators move to the layer that is stored there now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators import Operator

Move = Callable[[nn.Module, nn.Module, str, Operator], None]
"""Moves an operator: the layer it is on, the layer it goes to, the name of the child, the operator."""


@dataclass
class Kept:
    """An operator on a layer that may be replaced.

    Attributes:
        attribute: name under which the parent holds the layer.
        layer: the layer that has the operator.
        name: name of the operator as a child of that layer.
        operator: the operator.
        seen: the module that the parent held at the last check: the layer, or a wrapper that only calls it.
    """

    attribute: str
    layer: nn.Module
    name: str
    operator: Operator
    seen: nn.Module


class Keeper:
    """The operators on the layers of one parent; its methods are hooks of the parent.

    Args:
        move: how an operator is moved.
    """

    def __init__(self, move: Move) -> None:
        self.move = move
        self.kept: list[Kept] = []

    def before_forward(self, parent: nn.Module, args: Any) -> None:
        """Forward pre-hook."""
        self.settle(parent)

    def before_saving(self, parent: nn.Module, prefix: str, keep_vars: bool) -> None:
        """State-dict pre-hook."""
        self.settle(parent)

    def settle(self, parent: nn.Module) -> None:
        """Move the operators to the layers that the parent holds now.

        Raises:
            SurgeryError: a layer was deleted, and its operator with it (CB-SURGERY-11), or replaced by a container
                (CB-SURGERY-02).
        """
        for each in self.kept:
            if parent._modules.get(each.attribute) is not each.seen:
                self._follow(each, parent._modules.get(each.attribute))

    def _follow(self, each: Kept, now: nn.Module | None) -> None:
        if now is None:
            raise SurgeryError(
                "the layer of an inserted operator is gone",
                code="CB-SURGERY-11",
                where=f"layer {each.attribute}, {each.operator.name}",
                why="it was deleted after the insertion",
                do="remove the operators (cbs.remove), change the model, then insert again",
            )
        if not _only_calls(now, each.layer):
            if isinstance(now, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
                raise SurgeryError(
                    "the layer of an inserted operator was replaced by a container",
                    code="CB-SURGERY-02",
                    where=f"layer {each.attribute}",
                    why=f"a child added to {type(now).__name__} would also run as a layer of its own",
                    do="put the layers into a module with its own forward(), or remove the operators (cbs.remove), "
                    "change the model, then insert again",
                )
            if each.name not in now._modules:
                self.move(each.layer, now, each.name, each.operator)
            each.layer, each.operator = now, now._modules[each.name]  # type: ignore[assignment]
        each.seen = now


def _only_calls(wrapper: nn.Module, layer: nn.Module) -> bool:
    """Whether a module contains a layer and no tensors besides the layer's, so that it only calls the layer."""
    if not any(part is layer for part in wrapper.modules()):
        return False
    inside = {id(tensor) for tensor in (*layer.parameters(), *layer.buffers())}
    return all(id(tensor) in inside for tensor in (*wrapper.parameters(), *wrapper.buffers()))


def keep(parent: nn.Module, attribute: str, name: str, move: Move) -> None:
    """Make the operator of one layer follow from now on when the layer is replaced.

    Args:
        parent: the module that calls the layer.
        attribute: name under which it holds the layer.
        name: name of the operator as a child of the layer.
        move: how to move an operator.
    """
    keeper = next(keepers(parent), None)
    if keeper is None:
        keeper = Keeper(move)
        parent.register_forward_pre_hook(keeper.before_forward, prepend=True)
        parent.register_state_dict_pre_hook(keeper.before_saving)  # type: ignore[no-untyped-call]
    layer: Any = parent._modules[attribute]
    keeper.kept.append(Kept(attribute, layer, name, layer._modules[name], layer))


def keepers(parent: nn.Module) -> Iterator[Keeper]:
    """Yield the keeper of a module's layers, if it has one."""
    for hook in parent._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Keeper):
            yield owner


def settle(module: nn.Module) -> None:
    """Move every operator of a model whose layer was replaced to the new layer."""
    for part in list(module.modules()):
        for keeper in list(keepers(part)):
            keeper.settle(part)


def release(module: nn.Module) -> None:
    """Forget the operators that were removed, and remove keepers that have none left."""
    for part in module.modules():
        for keeper in list(keepers(part)):
            keeper.kept = [each for each in keeper.kept if each.layer._modules.get(each.name) is each.operator]
            if not keeper.kept:
                for hooks in (part._forward_pre_hooks, part._state_dict_pre_hooks):
                    for key in [key for key, hook in hooks.items() if getattr(hook, "__self__", None) is keeper]:
                        del hooks[key]
