"""The batch axis of each input: axis 0 of the inputs that agree on its size, or the axis that the user states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError, UsageError, did_you_mean
from cbsurgeon.models.model import BatchAxis

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Batch:
    """The batch of some inputs.

    Attributes:
        axes: for each leaf of the inputs, in the order of ``pytree``, its batch axis or ``None``.
        size: number of samples; ``None`` if no input has a batch axis.
    """

    axes: tuple[int | None, ...]
    size: int | None

    def resized(self, inputs: Inputs, wanted: int) -> Inputs:
        """Return inputs of another batch size; the samples are repeated in order."""
        if self.size is None:
            return inputs
        rows = torch.arange(wanted) % self.size
        return self.changed(inputs, lambda leaf, axis: leaf.index_select(axis, rows))

    def changed(self, inputs: Inputs, change: Callable[[Tensor, int], Tensor]) -> Inputs:
        """Return inputs with a function of each tensor that has a batch axis, and of that axis, in its place."""
        return self._each(inputs, lambda leaf, axis: leaf if axis is None else change(leaf, axis))

    def dynamic(self, inputs: Inputs) -> Inputs:
        """``dynamic_shapes`` for ``torch.export``: ``{axis: batch}`` or ``None`` for each leaf.

        Raises:
            CaptureError: a container of the inputs takes nothing but tensors (CB-CAPTURE-03).
        """
        batch = Dim("batch", min=1)
        try:
            return self._each(inputs, lambda leaf, axis: None if axis is None else {axis: batch})
        except Exception as error:  # the constructor of a container may raise anything
            kinds = dict.fromkeys(type(one).__name__ for one in (*inputs[0], *inputs[1].values()))
            raise CaptureError(
                "capture failed because the batch axis of an input cannot be declared",
                code="CB-CAPTURE-03",
                where=f"inputs of type {', '.join(kinds)}",
                why=f"one of them takes tensors only ({type(error).__name__}: {str(error)[:200]})",
                do="give the tensors as inputs of their own, or capture a sub-module that takes tensors",
            ) from error

    def _each(self, inputs: Inputs, change: Callable[[Any, int | None], Any]) -> Inputs:
        leaves, spec = pytree.tree_flatten(inputs)
        args, kwargs = pytree.tree_unflatten(list(map(change, leaves, self.axes)), spec)
        return args, kwargs


def batch_of(module: nn.Module, inputs: Inputs, stated: BatchAxis) -> Batch:
    """The batch of a module's inputs.

    Args:
        module: the module, whose parameters of ``forward`` name the inputs.
        inputs: positional and keyword inputs.
        stated: one axis for every input, an axis by name, or one per leaf; by default axis 0.

    Raises:
        UsageError: no input has such an axis or name, or the sizes disagree (CB-INPUT-04).
    """
    leaves = pytree.tree_leaves(inputs)
    if isinstance(stated, tuple):
        return Batch(stated, _size(leaves, stated))
    names = input_names(module, inputs)
    if stated is not None:
        _check(stated, names, leaves)
    by_name = stated if isinstance(stated, Mapping) else {}
    usual = stated if isinstance(stated, int) else 0
    wanted = [by_name.get(name, usual) for name in names]
    known = [leaf.shape[axis] if _has(leaf, axis) else None for leaf, axis in zip(leaves, wanted, strict=True)]
    sizes = [size for size, name in zip(known, names, strict=True) if size is not None and name in (by_name or names)]
    if not sizes:
        return Batch((None,) * len(leaves), None)
    axes = (axis if size == sizes[0] else None for axis, size in zip(wanted, known, strict=True))
    return Batch(tuple(axes), int(sizes[0]))


def input_names(module: nn.Module, inputs: Inputs) -> list[str]:
    """For each leaf of the inputs, the parameter of ``forward`` it belongs to."""
    args, kwargs = inputs
    parameters = [
        one for one in inspect.signature(module.forward).parameters.values() if one.kind is not one.KEYWORD_ONLY
    ]
    names: list[str] = []
    for number, arg in enumerate(args):
        own = parameters[number].name if number < len(parameters) else f"input_{number}"
        names += [own] * len(pytree.tree_leaves(arg))
    for name, value in kwargs.items():
        names += [name] * len(pytree.tree_leaves(value))
    return names


def spelled(names: list[str], axes: tuple[int | None, ...]) -> str:
    """Return the value of ``--batch-axis`` for some axes: one number if all axes are the same."""
    chosen = {name: axis for name, axis in zip(names, axes, strict=True) if axis is not None}
    same = set(chosen.values())
    return str(same.pop()) if len(same) == 1 else ",".join(f"{name}={axis}" for name, axis in chosen.items())


def _has(leaf: Any, axis: int) -> bool:
    return isinstance(leaf, Tensor) and 0 <= axis < leaf.dim()


def _size(leaves: list[Any], axes: tuple[int | None, ...]) -> int | None:
    sizes = [leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
    return int(sizes[0]) if sizes else None


def _check(stated: int | Mapping[str, int], names: list[str], leaves: list[Any]) -> None:
    """Refuse a stated batch axis that contradicts the inputs."""
    tensors = {name: leaf for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, Tensor)}
    shapes = ", ".join(f"{name} {list(leaf.shape)}" for name, leaf in tensors.items())
    if isinstance(stated, int):
        if not any(_has(leaf, stated) for leaf in tensors.values()):
            raise _wrong(str(stated), f"no input has an axis {stated}: {shapes}", "--batch-axis 0")
        return
    written = ",".join(f"{name}={axis}" for name, axis in stated.items())
    for name, axis in stated.items():
        if name not in tensors:
            near = did_you_mean(name, tensors, "--batch-axis ")
            do = near.replace("?", f"={axis}?") or f"the inputs are {shapes}"
            raise _wrong(written, f"the model has no input {name!r}", do)
        if not _has(tensors[name], axis):
            raise _wrong(written, f"{name} has no axis {axis}: {shapes}", f"--batch-axis {name}=0")
    sizes = {name: int(tensors[name].shape[axis]) for name, axis in stated.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} has {size} along axis {stated[name]}" for name, size in sizes.items())
        raise _wrong(written, f"the inputs disagree on the number of samples: {found}", f"the inputs are {shapes}")


def _wrong(written: str, why: str, do: str) -> UsageError:
    return UsageError(
        "this is not the batch axis of the inputs", code="CB-INPUT-04", where=f"--batch-axis {written}", why=why, do=do
    )
