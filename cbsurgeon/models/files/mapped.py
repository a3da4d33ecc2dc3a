"""Going through the tensors of a large file a portion at a time.

A file is mapped as a whole, and every page of it that was read counts as memory of this process until the mapping is
gone: copying or comparing a model out of one mapping would need its size twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files import safetensors as safetensors_file
from cbsurgeon.models.files.checkpoint import Checkpoint, open_checkpoint

SMALLEST = 32 << 20
"""Bytes of a portion at least: a smaller file is not worth opening again."""

MOST = 128
"""Portions at most: every one parses the file's directory once more."""


def portions(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """``state`` in portions, in its order; what lies in the checkpoint's file comes from a mapping of its own.

    Keep no tensor of a portion beyond it, read none of ``state`` itself, and the pages are given back.

    Args:
        checkpoint: the opened file.
        state: its tensors under these or other keys, and others.

    Raises:
        InputFileError: the file changed since it was opened (CB-LOAD-24), or can no longer be read.
    """
    names: dict[tuple[object, ...], str] = {}
    for key, tensor in checkpoint.state_dict.items() if checkpoint.mapped else ():
        names.setdefault(_place(tensor), key)  # a tied tensor lies there under its first key
    for group in _groups(state):
        lying = {key: names[_place(tensor)] for key, tensor in group.items() if _place(tensor) in names}
        fresh = _again(checkpoint, list(dict.fromkeys(lying.values()))) if lying else {}
        yield {key: fresh[lying[key]] if key in lying else tensor for key, tensor in group.items()}


def _again(checkpoint: Checkpoint, keys: list[str]) -> Mapping[str, torch.Tensor]:
    """These tensors of a file, at least, from a new mapping of it."""
    if files.stamp(files.readable(checkpoint.path)) != checkpoint.stamp:
        raise InputFileError(
            "the file changed while it was read",
            code="CB-LOAD-24",
            where=str(checkpoint.path),
            why="another program wrote to it, or put another file in its place",
            do="run again when it is complete",
        )
    if files.sniff(checkpoint.path) == "safetensors":
        return safetensors_file.mapped(checkpoint.path, keys)
    return open_checkpoint(checkpoint.path, entry=checkpoint.entry or None, digest=False).state_dict


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Where a tensor lies in memory, and as what; an empty one is known by itself."""
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
