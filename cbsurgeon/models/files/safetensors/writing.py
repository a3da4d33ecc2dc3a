"""Write safetensors tensor by tensor.

The library's writer takes all tensors at once, so that a model with memory-mapped weights would be loaded into memory
as a whole. A file written here is read back with the library before it gets its final name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

ALIGNMENT = 8
"""The data start at a multiple of this, and wider types come first, so that every tensor is aligned to its width."""

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def writable(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether every tensor has a type that can be written here."""
    return all(tensor.dtype in _NAMES for tensor in state.values())


def write(
    path: Path,
    state: Mapping[str, torch.Tensor],
    parts: Iterable[Mapping[str, torch.Tensor]],
    notes: Mapping[str, str],
) -> None:
    """Write a safetensors file.

    Args:
        path: the file.
        state: tensors by key, for their shapes and types; their values are not read.
        parts: the tensors, every key of ``state`` once, a few at a time, in any order.
        notes: text for the header.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(notes.items()))}
    offsets: dict[str, int] = {}
    end = 0
    for key in sorted(state, key=lambda key: (-state[key].element_size(), key)):
        offsets[key], end = end, end + state[key].nbytes
        shape, span = list(state[key].shape), [offsets[key], end]
        entries[key] = {"dtype": _NAMES[state[key].dtype], "shape": shape, "data_offsets": span}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        for part in parts:
            for key, tensor in part.items():
                file.seek(start + offsets[key])
                file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
