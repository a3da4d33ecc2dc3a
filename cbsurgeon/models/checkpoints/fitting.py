"""Load a state dict into a module strictly; if it does not fit, the error lists the differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn

from cbsurgeon.errors import InputFileError

SHOWN = 3
"""How many keys of each kind an error lists; the rest are counted."""

CHILD = "context_broadcast"
"""Prefix of the names of inserted operators in state-dict keys."""

M = TypeVar("M", bound=nn.Module)
State = Mapping[str, torch.Tensor]


def fit(module: M, state: Mapping[str, torch.Tensor], where: str, groups: Iterable[State] | None = None) -> M:
    """Load ``state`` into ``module`` strictly, in place, keeping the state's dtypes bit for bit.

    Nothing is copied unless every key and every shape fits. If all floating-point tensors of the state have one dtype,
    the whole module is cast to it, including buffers outside the state (as by ``module.half()``); otherwise each tensor
    keeps its own.

    Args:
        module: the architecture, changed in place and returned.
        state: tensors by key; read one by one, so that a memory-mapped file is not read as a whole.
        where: the file, for the error.
        groups: the same tensors in several parts, which are read one after the other.

    Raises:
        InputFileError: keys are missing or unexpected, shapes differ, or numbers are of a type that the layers do not
            compute with; the first few and the counts are given (``CB-FIT-01``).
    """
    problems = differences(module.state_dict(), state)
    if problems:
        raise InputFileError(
            "the weights do not fit the architecture",
            code="CB-FIT-01",
            where=where,
            why="; ".join(problems),
            do=advice(module.state_dict(), state),
        )
    take_dtypes(module, state)
    if groups is None:
        module.load_state_dict(dict(state), strict=True)
    else:
        for group in groups:  # strict as a whole: the keys were compared above
            module.load_state_dict(dict(group), strict=False)
    return module


def advice(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    """Return the advice for the error about weights that do not fit."""
    if any(inserted(key) for key in given if key not in own):
        return "it was trained with an insertion: give its recipe (--trained-with, or cbs.load(file, recipe=...))"
    if any(key in own and _is_strange(own[key], tensor) for key, tensor in given.items()):
        return "convert the quantized weights first: tensor.to(torch.bfloat16), times their scales if there are any"
    counts = [_blocks(state) for state in (given, own)]
    if counts[0] and counts[1] and counts[0] != counts[1]:
        return (
            f"the file has {counts[0]} numbered blocks, the architecture {counts[1]}: check --arch, or give its number "
            f"of blocks, such as --model-option depth={counts[0]}"
        )
    rows = _outputs(own, given)
    if rows is not None:
        return f"build it with {rows} outputs: --model-option num_classes={rows}, or your own factory's name for that"
    return "check --arch and its options (num_classes, img_size, depth): the file must hold exactly this architecture"


def _outputs(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> int | None:
    """Return the file's number of outputs if it is all that differs: the rows of one layer's weight and bias."""
    if own.keys() != given.keys():
        return None
    pairs = {key: (tensor.shape, own[key].shape) for key, tensor in given.items() if tensor.shape != own[key].shape}
    layers = {key.rpartition(".")[0] for key in pairs}
    rows = {here[0] if here and here[1:] == there[1:] else None for here, there in pairs.values()}
    return rows.pop() if len(layers) == len(rows) == 1 else None


def _blocks(state: Mapping[str, torch.Tensor]) -> int:
    """Return the length of the longest numbered list of modules whose name has one number; 0 if there is none."""
    found: dict[str, set[int]] = {}
    for key in state:
        numbered = re.match(r"(\D*\.)(\d+)\.", key)
        if numbered:
            found.setdefault(numbered[1], set()).add(int(numbered[2]))
    return max(map(len, found.values()), default=0)


def inserted(key: str) -> bool:
    """Whether a state-dict key belongs to an inserted operator."""
    return any(part.startswith(CHILD) for part in key.split("."))


def differences(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the differences between the keys, shapes and types of two state dicts as sentences; empty if none."""
    absent = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    unequal = [
        f"{key} is {_shape(given[key])} in the file, {_shape(own[key])} in the architecture"
        for key in own
        if key in given and own[key].shape != given[key].shape
    ]
    strange = [
        f"{key} is {_type(given[key])} in the file, {_type(own[key])} in the architecture"
        for key in own
        if key in given and _is_strange(own[key], given[key])
    ]
    sentences = []
    if strange:
        sentences.append(f"{len(strange)} of {len(own)} number types cannot be computed with: {_few(strange)}")
    if unequal:
        sentences.append(f"{len(unequal)} of {len(own)} shapes differ: {_few(unequal)}")
    if absent:
        sentences.append(f"{len(absent)} of {len(own)} keys are missing from the file: {_few(absent)}")
    if unexpected:
        sentences.append(f"{len(unexpected)} of {len(given)} keys are not in the architecture: {_few(unexpected)}")
    return sentences


def adopt(module: nn.Module, state: State) -> bool:
    """Make the tensors of a state dict the parameters of a module without copying; tied parameters stay tied.

    Returns:
        whether it was done; not if parameters that are tied in the module are different tensors in the file.
    """
    tied: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    groups = [names for names in tied.values() if len(names) > 1]
    if any(len({state[name].data_ptr() for name in names}) > 1 for names in groups):
        return False
    take_dtypes(module, state)
    module.load_state_dict(dict(state), strict=True, assign=True)
    for first, *others in groups:
        kept = module.get_parameter(first)
        for name in others:
            path, _, last = name.rpartition(".")
            module.get_submodule(path)._parameters[last] = kept
    return True


def take_dtypes(module: nn.Module, state: State) -> None:
    """Cast a module to the types of a state dict, as :func:`fit` does."""
    floating = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(floating) == 1:
        module.to(dtype=floating.pop())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)


def _is_strange(own: torch.Tensor, given: torch.Tensor) -> bool:
    """Return whether a layer with floating-point numbers gets others than these, or ones of 8 bits or fewer."""
    if own.dtype == given.dtype or not own.is_floating_point():
        return False
    return not given.is_floating_point() or given.dtype.itemsize < torch.float16.itemsize


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _few(items: list[str]) -> str:
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
