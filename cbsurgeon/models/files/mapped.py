"""Iterate over the tensors of a large memory-mapped file in groups, so that not all of them are in memory at once.

A file is mapped as a whole, and every page that was read counts as memory of this process until the mapping is closed.
Copying or comparing a model out of a single mapping would need twice its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files.checkpoint import Checkpoint, open_checkpoint
from cbsurgeon.models.files.safetensors import reading as safetensors_file

SMALLEST = 32 << 20
"""Smallest size of a group in bytes: for less, opening the file again is not worth it."""

MOST = 128
"""Largest number of groups, because each one parses the file's directory again."""


def in_groups(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield ``state`` in groups, in its order; tensors of the checkpoint's file come from a new mapping per group.

    Memory is released after each group if the caller keeps no tensor of it and does not read ``state`` itself.

    Args:
        checkpoint: the opened file.
        state: tensors of the checkpoint, with its keys or others, and possibly other tensors.

    Raises:
        InputFileError: the file changed since it was opened (CB-LOAD-24), or can no longer be read.
    """
    names: dict[tuple[object, ...], str] = {}
    for key, tensor in checkpoint.state_dict.items() if checkpoint.mapped else ():
        names.setdefault(_place(tensor), key)  # a tied tensor is stored with its first key
    for group in _groups(state):
        lying = {key: names[_place(tensor)] for key, tensor in group.items() if _place(tensor) in names}
        fresh = _again(checkpoint, list(dict.fromkeys(lying.values()))) if lying else {}
        yield {key: fresh[lying[key]] if key in lying else tensor for key, tensor in group.items()}


def _again(checkpoint: Checkpoint, keys: list[str]) -> Mapping[str, torch.Tensor]:
    """At least these tensors of a file, from a new mapping."""
    if files.stamp(files.readable(checkpoint.path)) != checkpoint.stamp:
        raise InputFileError(
            "the file changed while it was read",
            code="CB-LOAD-24",
            where=str(checkpoint.path),
            why="another program wrote to it or replaced it",
            do="run again when it is complete",
        )
    if files.sniff(checkpoint.path) == "safetensors":
        return safetensors_file.mapped(checkpoint.path, keys)
    return open_checkpoint(checkpoint.path, entry=checkpoint.entry or None, digest=False).state_dict


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """A key for a tensor's memory and view of it; an empty tensor is identified by its object."""
    where = tensor.data_ptr() if tensor.numel() else id(tensor)
    return where, tensor.dtype, tuple(tensor.shape), tensor.stride()


def _groups(state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    largest = max(SMALLEST, sum(tensor.nbytes for tensor in state.values()) // MOST)
    group: dict[str, torch.Tensor] = {}
    size = 0
    for key, tensor in state.items():
        if group and size + tensor.nbytes > largest:
            yield group
            group, size = {}, 0
        group[key] = tensor
        size += tensor.nbytes
    yield group
