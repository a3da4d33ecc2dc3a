"""``save``: write weights, architecture and insertions into one file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from cbsurgeon.errors import OutputFileError, UsageError
from cbsurgeon.models import inputs
from cbsurgeon.models.builders.image_processing import preprocessing_of
from cbsurgeon.models.files import atomic, metadata
from cbsurgeon.models.files.checkpoint import open_checkpoint
from cbsurgeon.models.files.mapped import in_groups
from cbsurgeon.models.files.metadata import Metadata
from cbsurgeon.models.files.safetensors import writing as safetensors_file
from cbsurgeon.models.model import Model

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

SAFETENSORS, TORCH, PROGRAM = (".safetensors",), (".pt", ".pth"), (".pt2",)


def save(model: Model, path: str | Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Path:
    """Write a model's weights and what is needed to build it again; the suffix decides the format.

    ``.safetensors`` (recommended) and ``.pt``/``.pth`` (read back with ``weights_only=True``) hold every tensor of the
    state dict once; ``.pt2`` holds the program, which is only read back with ``trust=True``. The file is written under
    a temporary name, read back, compared with the model byte for byte, and renamed, so that it appears complete or not
    at all.

    Args:
        model: the state dict of its module is written, or that of its program if it has no module.
        path: the destination.
        force: replace an existing file.
        inputs: files the result was made from, besides the one the model was loaded from; none may be the destination.

    Returns:
        The path written.

    Raises:
        UsageError: unknown suffix, or ``.pt2`` without a program (``CB-SAVE-01``).
        OutputFileError: the destination is refused (``CB-OUT-*``); a tensor that no checkpoint can hold
            (``CB-SAVE-02``); the file read back differs (``CB-SAVE-03``).
    """
    model = replace(model)  # adds the recipes of operators that were inserted after the object was made
    destination = Path(path)
    suffix = require_suffix(destination)
    if suffix in PROGRAM and model.program is None:
        raise UsageError(
            "a .pt2 file holds a program, and this model has none",
            code="CB-SAVE-01",
            where=str(destination),
            why="a .pt2 file stores a graph, and a module has none before it is captured",
            do="save a .safetensors file, or capture the model first",
        )
    with atomic.output(destination, force=force, inputs=[*inputs, *sources(model)]) as temporary:
        _write(model, temporary, suffix, destination)
    return destination


def require_suffix(destination: Path) -> str:
    """Return the suffix of a checkpoint in lower case.

    Raises:
        UsageError: no format has it (``CB-SAVE-01``).
    """
    suffix = destination.suffix.lower()
    if suffix not in (*SAFETENSORS, *TORCH, *PROGRAM):
        raise UsageError(
            f"no checkpoint format has the suffix {suffix or '(none)'!r}",
            code="CB-SAVE-01",
            where=str(destination),
            why="the suffix decides the format",
            do="end the name in .safetensors, .pt, .pth or .pt2",
        )
    return suffix


def _write(model: Model, temporary: Path, suffix: str, destination: Path) -> None:
    state = state_dict(model, str(destination))
    kept, aliases = shared(state)
    document = describe(model, aliases if suffix in SAFETENSORS else {})
    from safetensors import SafetensorError

    try:
        if suffix in SAFETENSORS and model.weights is not None and safetensors_file.writable(kept):
            safetensors_file.write(
                temporary, kept, _parts(model, kept), {"format": "pt", metadata.KEY: document.to_json()}
            )
        elif suffix in SAFETENSORS:
            _write_safetensors(kept, document, temporary)
        elif suffix in TORCH:
            _write_torch(state, document, temporary)
        elif model.program is not None:
            _write_program(model.program, document, temporary)
    except (RuntimeError, SafetensorError) as error:
        # The libraries' own writers report a full disk or a vanished folder like this.
        raise atomic.unfinished(destination, str(error), temporary) from error
    _check(model, state, temporary, suffix, destination)


def _parts(model: Model, state: Mapping[str, torch.Tensor]) -> Iterable[Mapping[str, torch.Tensor]]:
    """The tensors in groups if they are memory-mapped; otherwise all, because they are in memory anyway."""
    return [state] if model.weights is None else in_groups(model.weights, state)


def sources(model: Model) -> list[Path]:
    """Return the files that a model was loaded from (every shard, every file of a folder); empty if it was built."""
    origin = Path(model.provenance.reference.removeprefix("hf:"))
    try:
        if origin.name.endswith(".index.json"):
            return [origin, *origin.parent.glob("*.safetensors")]
        if origin.is_dir():
            return [entry for entry in origin.iterdir() if entry.is_file()]
        return [origin] if origin.is_file() else []
    except (OSError, ValueError):
        # The reference is free text and may not be a valid path.
        return []


def state_dict(model: Model, where: str) -> dict[str, torch.Tensor]:
    """Return the tensors to write, detached and not copied.

    Raises:
        OutputFileError: an entry is not a plain tensor with data (``CB-SAVE-02``).
    """
    if model.module is not None:
        entries: Mapping[str, Any] = model.module.state_dict()
    elif model.program is not None:
        entries = model.program.state_dict
    else:
        entries = {}
    for key, value in entries.items():
        problem = _unwritable(value)
        if problem:
            raise OutputFileError(
                "a value of the state dict cannot be stored",
                code="CB-SAVE-02",
                where=f"{where}, key {key!r}",
                why=problem,
                do="store a dense tensor there, or leave it out of the state dict",
            )
    if not entries:
        raise OutputFileError(
            "the model has no tensor to store",
            code="CB-SAVE-02",
            where=where,
            why="its state dict is empty",
            do="save a module that has parameters",
        )
    return {key: value.detach() for key, value in entries.items()}


def shared(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Split a state dict into tensors to store and aliases of them (tied weights: one memory, one view)."""
    kept: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        view = (str(value.device), value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and view in first:
            aliases[key] = first[view]
        else:
            first.setdefault(view, key)
            kept[key] = value
    return kept, aliases


def describe(model: Model, aliases: Mapping[str, str]) -> Metadata:
    """Return the metadata of the file."""
    origin = model.provenance
    options, preprocessing = dict(origin.architecture_options), preprocessing_of(model)
    # Other builders know the inputs of their architectures.
    shapes = inputs.spelled(model) if (origin.architecture or "").startswith("mod:") else ""
    return Metadata(origin.architecture, options, tuple(model.recipes), aliases, preprocessing, shapes)


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (NaN equals the same NaN, 0.0 differs from -0.0)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(_bits(each) for each in (one, other)))


def _bits(value: torch.Tensor) -> torch.Tensor:
    """The tensor's memory as integers of its element size, which compare several times faster than bytes."""
    width = _WORDS.get(value.element_size(), torch.uint8)
    return value.cpu().contiguous().reshape(-1).view(width)


def _write_safetensors(kept: Mapping[str, torch.Tensor], document: Metadata, temporary: Path) -> None:
    from safetensors.torch import save_file

    # One pass copies only what is not already a contiguous CPU tensor of its own.
    packed = {key: _owned(value) for key, value in kept.items()}
    save_file(packed, temporary, metadata={"format": "pt", metadata.KEY: document.to_json()})
    _sort_notes(temporary)


def _sort_notes(path: Path) -> None:
    """Sort the header's text metadata, because the library's order changes from run to run, and so would the file's
    digest.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _write_torch(state: Mapping[str, torch.Tensor], document: Metadata, temporary: Path) -> None:
    done: dict[int, torch.Tensor] = {}
    packed: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        # torch.save would write the whole storage of a small view; tied tensors are written once.
        packed[key] = done.setdefault(value.data_ptr(), value.cpu()) if _whole(value) else value.cpu().clone()
    architecture = document.architecture or ""
    torch.save(
        {"arch": architecture.removeprefix("timm:"), "state_dict": packed, metadata.KEY: document.to_json()}, temporary
    )


def _write_program(program: ExportedProgram, document: Metadata, temporary: Path) -> None:
    # Through memory: on a full disk torch's own writer ends the whole process.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={metadata.KEY: document.to_json()})
    temporary.write_bytes(buffer.getbuffer())


def _check(model: Model, state: Mapping[str, torch.Tensor], temporary: Path, suffix: str, destination: Path) -> None:
    """Read the file back and compare every tensor with the model's."""
    if suffix in PROGRAM:
        written: Mapping[str, torch.Tensor] = torch.export.load(temporary).state_dict
        different = [key for key in state if key not in written or not same_bytes(state[key], written[key])]
    else:
        opened = open_checkpoint(temporary, digest=False)
        written, different = opened.state_dict, []
        for expected in _parts(model, state):
            different += [key for key in expected if key not in written]
            for part in in_groups(opened, {key: written[key] for key in expected if key in written}):
                different += [key for key, value in part.items() if not same_bytes(expected[key], value)]
    different += [key for key in written if key not in state]
    if different:
        raise OutputFileError(
            "the checkpoint read back is not what was written",
            code="CB-SAVE-03",
            where=str(destination),
            why=f"{len(different)} tensors differ, first {different[0]!r}; was the model changed meanwhile?",
            do="save it again while nothing changes it",
        )


def _owned(value: torch.Tensor) -> torch.Tensor:
    """The tensor as a contiguous CPU tensor with its own storage, copied only if needed."""
    packed = value.cpu().contiguous()
    return packed if _whole(packed) else packed.clone()


def _whole(value: torch.Tensor) -> bool:
    return value.is_contiguous() and value.untyped_storage().nbytes() == value.numel() * value.element_size()


def _unwritable(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"it is {type(value).__name__}, not a tensor"
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return (
            f"its layout is {value.layout}{', quantized' if value.is_quantized else ''}; only dense tensors are stored"
        )
    if value.is_meta:
        return "it has no data (meta device)"
    if type(value) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return f"it is a {type(value).__name__}; gather a sharded model into plain tensors first"
    return ""
