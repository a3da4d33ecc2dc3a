"""Keeps operators at their sites when a layer is wrapped, unwrapped or replaced after the insertion.

LoRA puts a wrapper in the place of a linear layer, and merging takes it away again; quantisation puts another layer
there. An operator belongs to the place: to the input or the output of whatever its parent calls there. Before the
parent runs or is saved, the operators move to the layer that is there now.
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
    """An operator on a layer that may be exchanged.

    Attributes:
        attribute: name under which the parent holds the layer.
        layer: the layer that carries the operator.
        name: of the operator's child module there.
        operator: the operator.
        seen: what the parent held when it was last looked at: the layer, or a wrapper that only calls it.
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
        """Move the operators to the layers that are there now.

        Raises:
            SurgeryError: a layer is gone, and its operator with it (CB-SURGERY-11).
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
                do="take the operators out (cbs.remove), change the model, then insert again",
            )
        if not _only_calls(now, each.layer):
            if each.name not in now._modules:
                self.move(each.layer, now, each.name, each.operator)
            each.layer, each.operator = now, now._modules[each.name]  # type: ignore[assignment]
        each.seen = now


def _only_calls(wrapper: nn.Module, layer: nn.Module) -> bool:
    """Whether a module contains a layer and no tensor beside the layer's, so that it can only call it."""
    if not any(part is layer for part in wrapper.modules()):
        return False
    inside = {id(tensor) for tensor in (*layer.parameters(), *layer.buffers())}
    return all(id(tensor) in inside for tensor in (*wrapper.parameters(), *wrapper.buffers()))


def keep(parent: nn.Module, attribute: str, name: str, move: Move) -> None:
    """Keep the operator on one of a parent's layers at its site from now on.

    Args:
        parent: a module that runs.
        attribute: name under which it holds the layer.
        name: of the operator's child module there.
        move: how to move it.
    """
    keeper = next(keepers(parent), None)
    if keeper is None:
        keeper = Keeper(move)
        parent.register_forward_pre_hook(keeper.before_forward, prepend=True)
        parent.register_state_dict_pre_hook(keeper.before_saving)  # type: ignore[no-untyped-call]
    layer: Any = parent._modules[attribute]
    keeper.kept.append(Kept(attribute, layer, name, layer._modules[name], layer))


def keepers(parent: nn.Module) -> Iterator[Keeper]:
    """The keeper of a module's layers, where it has one."""
    for hook in parent._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Keeper):
            yield owner


def settle(module: nn.Module) -> None:
    """Move every operator of a model to the layer that is at its site now."""
    for part in list(module.modules()):
        for keeper in list(keepers(part)):
            keeper.settle(part)


def release(module: nn.Module) -> None:
    """Keep only the operators that are still there; take away the hooks that keep none."""
    for part in module.modules():
        for keeper in list(keepers(part)):
            keeper.kept = [each for each in keeper.kept if each.layer._modules.get(each.name) is each.operator]
            if not keeper.kept:
                for hooks in (part._forward_pre_hooks, part._state_dict_pre_hooks):
                    for key in [key for key, hook in hooks.items() if getattr(hook, "__self__", None) is keeper]:
                        del hooks[key]
