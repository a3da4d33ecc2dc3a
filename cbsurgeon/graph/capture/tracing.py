"""Find the input of the whole model that the mask of a captured part comes from, by changing the inputs one by one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.graph.capture.naming import leaves_with_paths
from cbsurgeon.graph.capture.parts import example, record, with_one_position_masked
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model

Given = dict[tuple[str, str], Tensor]
"""(path of a part, name of its input) → the tensor that the part was called with."""

_SHAKE = 0.1
"""Relative change of every parameter: enough to change some value of a mask that is a thresholded prediction."""


def origins(model: Model, programs: Sequence[Program], masks: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the names of the model's inputs that the masks of captured parts come from.

    For each mask among the model's inputs, the model is run again with half of a sample masked. If the part then
    receives another mask, that input is the origin. A mask of a part that changes with the model's parameters is a
    prediction and not a padding mask; it is dropped. A mask without a known origin is named after the input of the part
    and the part's path.

    Args:
        model: the whole model.
        programs: its captured parts.
        masks: path of a part → names of its inputs that are attention masks.
    """
    if not any(masks.values()):
        return ()
    assert model.module is not None
    inputs = {program.prefix: program.input_names for program in programs if masks.get(program.prefix)}
    leaves, spec = pytree.tree_flatten(example(model))
    plain = [with_one_position_masked(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def given(changed: Sequence[Any], state: Mapping[str, Tensor] | None = None) -> Given:
        return _given(model.module, pytree.tree_unflatten(list(changed), spec), inputs, masks, state)

    before = given(plain)
    predicted = _moved(before, given(plain, _perturbed(model.module)))
    found: dict[str, None] = {}
    explained = set(predicted)
    for place, name in _mask_like(model, leaves):
        changed = [_half_masked(leaf) if i == place else leaf for i, leaf in enumerate(plain)]
        moved = _moved(before, given(changed)) - predicted
        explained |= moved
        if moved:
            found[name] = None
    found.update(dict.fromkeys(_own(path, name) for path, name in before if (path, name) not in explained))
    return tuple(found)


def _own(path: str, name: str) -> str:
    return f"{name} of {path} (not traced to an input of the model)"


def _given(
    module: nn.Module | None,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    names: Mapping[str, Sequence[str]],
    masks: Mapping[str, Sequence[str]],
    state: Mapping[str, Tensor] | None,
) -> Given:
    assert module is not None
    args, kwargs = inputs
    recorded = record(module, args, kwargs, only=names, state=state)
    return {
        (path, name): tensor
        for path, one in recorded.items()
        for name, tensor in zip(names[path], one.tensors(), strict=False)
        if name in masks[path]
    }


def _perturbed(module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    generator = torch.Generator().manual_seed(0)
    return {
        name: parameter.detach() * (1 + _SHAKE * torch.randn(parameter.shape, generator=generator)).to(parameter)
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point()
    }


def _moved(before: Given, after: Given) -> set[tuple[str, str]]:
    return {key for key, tensor in before.items() if key not in after or not torch.equal(tensor, after[key])}


def _mask_like(model: Model, leaves: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Index and name of every tensor input that holds only zeros and ones."""
    for place, name in enumerate(input_names(model)):
        leaf = leaves[place]
        if (
            isinstance(leaf, Tensor)
            and leaf.dim() > 1
            and leaf.shape[-1] > 1
            and bool(((leaf == 0) | (leaf == 1)).all())
        ):
            yield place, name


def _half_masked(tensor: Tensor) -> Tensor:
    """The mask with the second half of the first sample set to 0."""
    hidden = tensor.clone()
    hidden[0, ..., tensor.shape[-1] // 2 :] = 0
    return hidden


def input_names(model: Model) -> list[str]:
    """Return a name per leaf of the example inputs: the parameter of forward(), with the key path if it is nested."""
    assert model.module is not None
    args, kwargs = example(model)
    parameters = list(inspect.signature(model.module.forward).parameters)
    names: list[str] = []
    for number, arg in enumerate(args):
        name = parameters[number] if number < len(parameters) else f"input_{number}"
        names += [name + pytree.keystr(path) for path, _ in leaves_with_paths(arg)]
    for name, value in kwargs.items():
        names += [name + pytree.keystr(path) for path, _ in leaves_with_paths(value)]
    return names
