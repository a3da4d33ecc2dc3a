"""Put an operator on a layer: as a child module, with a hook that runs it and a subclass that marks the layer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from cbsurgeon.graph.occupants import ON_INPUT, ON_OUTPUT
from cbsurgeon.operators import Operator
from cbsurgeon.surgery.module import own_class
from cbsurgeon.surgery.refusals import other_rank, ragged


def broadcast_output(module: nn.Module, args: Any, output: Any) -> Any:
    """Forward hook: apply the child operator to the module's (first tensor) output."""
    return _on_first_tensor(module._modules[ON_OUTPUT], output)


def broadcast_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Forward pre-hook: apply the child operator to the module's first tensor input."""
    operator = module._modules[ON_INPUT]
    if any(_is_tensor(arg) for arg in args):
        return _on_first_tensor(operator, args), kwargs
    return args, _on_first_tensor(operator, kwargs)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | fx.Proxy)


def _on_first_tensor(operator: Any, values: Any) -> Any:
    if _is_tensor(values):
        return _applied(operator, values)
    if isinstance(values, Mapping):
        key = next(key for key, value in values.items() if _is_tensor(value))
        changed = copy.copy(values)
        changed[key] = _applied(operator, values[key])  # type: ignore[index]
        return changed
    place = next(i for i, value in enumerate(values) if _is_tensor(value))
    items = [_applied(operator, value) if i == place else value for i, value in enumerate(values)]
    return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)


def _applied(operator: Any, value: Any) -> Any:
    if operator.pause is not None and operator.pause.on:
        return value
    if isinstance(value, fx.Proxy):  # symbolic_trace: one node for the operator, whose code needs types and sizes
        tracer: Any = value.tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(operator), (value,), {})
    if value.is_nested:
        raise ragged(operator)
    if operator.dims is not None and value.dim() != operator.dims:
        raise other_rank(operator, value.dim())
    return operator(value)


def carry(layer: nn.Module, name: str, operator: Operator) -> None:
    """Put an operator on a layer, in place.

    Args:
        layer: the layer.
        name: name of the child module: ``ON_OUTPUT`` to run on the layer's output, ``ON_INPUT`` to run on its input.
        operator: the operator.
    """
    layer.add_module(name, operator)
    if name == ON_OUTPUT:
        layer.register_forward_hook(broadcast_output)
    else:
        layer.register_forward_pre_hook(broadcast_input, with_kwargs=True)
    _own_class(layer)


def drop(layer: nn.Module, name: str) -> None:
    """Take an operator off a layer, in place."""
    del layer._modules[name]
    if name == ON_OUTPUT:
        _without(layer._forward_hooks, broadcast_output)
    else:
        for key in _without(layer._forward_pre_hooks, broadcast_input):
            layer._forward_pre_hooks_with_kwargs.pop(key, None)
    _own_class(layer)


def move(old: nn.Module, new: nn.Module, name: str, operator: Operator) -> None:
    """Move an operator to the layer that replaced the old one.

    Copies of the operator deeper in the new layer are removed: a wrapper may hold a copy of the layer it wraps.
    """
    if old._modules.get(name) is operator:
        drop(old, name)
    for part in list(new.modules()):
        inner = part._modules.get(name)
        if isinstance(inner, Operator) and inner.recipe_digest == operator.recipe_digest:
            drop(part, name)
    carry(new, name, operator)


def _own_class(layer: nn.Module) -> None:
    """Give a layer the subclass for the operators that it has now."""
    own_class.give(layer, (name for name in (ON_OUTPUT, ON_INPUT) if isinstance(layer._modules.get(name), Operator)))


def _without(hooks: dict[int, Any], function: Any) -> list[int]:
    keys = [key for key, hook in hooks.items() if hook is function]
    for key in keys:
        del hooks[key]
    return keys
