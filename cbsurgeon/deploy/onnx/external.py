"""External weights of an ONNX file: which files hold them, and whether these are safe to open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cbsurgeon.deploy.onnx import walking
from cbsurgeon.errors import InputFileError

_MEMORY = "MEM_ADDR_"
"""Part of the name with which ONNX Runtime marks weights that are in its memory already."""


def external_names(proto: Any) -> list[str]:
    """Return the names of files with external weights of a parsed model, each once, including subgraphs."""
    outside = [
        tensor
        for graph in walking.graphs(proto)
        for tensor in walking.tensors(graph)
        if tensor.data_location == tensor.EXTERNAL
    ]
    return list({entry.value: None for tensor in outside for entry in tensor.external_data if entry.key == "location"})


def require_own(path: Path, name: str) -> None:
    """Raise an error if external data could be an unrelated file; runtimes would open it without a check.

    Raises:
        InputFileError: the file is outside the model's folder, or a symbolic or hard link (CB-ONNX-05).
    """
    plain = Path(name)
    data = path.parent / plain
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        why = "it is outside the model's folder"
    elif _MEMORY in name:
        why = "ONNX Runtime would read this name as an address in memory"
    elif not data.exists() and not data.is_symlink():
        return  # reported as missing when it is read
    elif any((path.parent / Path(*plain.parts[: depth + 1])).is_symlink() for depth in range(len(plain.parts))):
        why = "it is a symbolic link, which may point to any file"
    elif not data.is_file():
        why = "it is not a regular file"
    elif data.stat().st_nlink > 1:
        why = "it is a hard link: the file has another name, and may belong to another program"
    else:
        return
    raise InputFileError(
        "the ONNX file reads its weights from an unsafe file",
        code="CB-ONNX-05",
        where=f"{path}, external data {name!r}",
        why=why,
        do=f"if you trust the file, replace {data} with a copy of it",
    )
