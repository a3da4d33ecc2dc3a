"""A subclass for every layer that has an operator, so that ``torch.compile`` distinguishes it from other layers.

``torch.compile`` caches compiled graphs per ``forward`` of a class, which all instances share. By default its guards
check the class of a module but not its hooks. A layer with an operator therefore gets a subclass of its class, with the
same name and methods; ``isinstance`` stays true.
``torch.nn.utils.parametrize`` and ``fully_shard`` work the same way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_MARK = "__cbsurgeon_carries__"
"""Class attribute of such a subclass: the names of the operators' child modules."""

_MADE: weakref.WeakValueDictionary[tuple[type, tuple[str, ...]], type] = weakref.WeakValueDictionary()
"""(class, names of child modules) → subclass. Each pair has one subclass, so that copies of a layer share compiled
graphs."""


def give(layer: nn.Module, names: Iterable[str]) -> None:
    """Give a layer the subclass for the operators it carries, in place; with no names, its original class.

    Args:
        layer: the layer.
        names: names of its child modules that are operators.
    """
    if isinstance(layer, torch.jit.ScriptModule):  # torch.compile does not compile it again
        return
    now = type(layer)
    made = _found(now)
    below = made.__bases__[0] if made else (now.__bases__[0] if _has_parametrized_class(layer) else now)
    carried = tuple(sorted(names))
    wanted = _subclass(below, carried) if carried else below
    layer.__class__ = _exchanged(now, made or below, wanted)
    _touch(layer)


def _touch(layer: nn.Module) -> None:
    """Change the version of the layer's ``__dict__``: torch 2.11 checks the class again only if this has changed."""
    vars(layer)[_MARK] = None
    del vars(layer)[_MARK]


def _has_parametrized_class(layer: nn.Module) -> bool:
    """Whether the layer's class was made by ``parametrize``, which later removes it and so must stay outermost."""
    return bool(is_parametrized(layer))


def _found(kind: type) -> type | None:
    """The subclass made by this file among a class and its ancestors."""
    return next((each for each in kind.__mro__ if _MARK in vars(each)), None)


def _subclass(base: type, names: tuple[str, ...]) -> type:
    made: type | None = _MADE.get((base, names))
    if made is None:
        namespace = {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "__slots__": (),  # the same layout in memory, or __class__ could not be assigned
            "__reduce_ex__": _reduce,
            _MARK: names,
        }
        kind: Any = type(base)
        made = kind(base.__name__, (base,), namespace)
        _MADE[base, names] = made
    return made


def _exchanged(kind: type, old: type, new: type) -> type:
    """The class with one of its ancestors replaced; subclasses by ``parametrize`` and ``fully_shard`` stay on top."""
    if kind is old:
        return new
    if not issubclass(kind, old):
        return kind
    bases = tuple(_exchanged(base, old, new) for base in kind.__bases__)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    metaclass: Any = type(kind)
    made: type = metaclass(kind.__name__, bases, own)
    return made


def _reduce(self: nn.Module, protocol: int) -> Any:
    """Copies and pickles name the original class, which can be imported."""
    made = _found(type(self))
    reduced = super(made, self).__reduce_ex__(protocol)  # type: ignore[arg-type,misc]
    if made is not type(self) or isinstance(reduced, str):
        return reduced
    build, args, *rest = reduced
    plain = tuple(made.__bases__[0] if arg is made else arg for arg in args)
    return _rebuild, (build, plain, getattr(made, _MARK)), *rest


def _rebuild(build: Callable[..., nn.Module], args: tuple[Any, ...], names: tuple[str, ...]) -> nn.Module:
    layer = build(*args)
    layer.__class__ = _subclass(type(layer), names)
    return layer
