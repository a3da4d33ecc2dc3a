"""Open a checkpoint: its tensors, and what the file states about their architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.files import arguments as timms
from cbsurgeon.models.files import metadata, notes
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files import torch_archive as torch_file
from cbsurgeon.models.files.safetensors import reading as safetensors_file
from cbsurgeon.models.preprocessing import Preprocessing

ENTRIES = (
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "net",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Usual names of weights in training checkpoints, in order of preference: trained weights before averaged ones."""

_BUILD_ARGUMENTS = ("num_classes", "img_size", "in_chans")
_IMAGE_ARGUMENTS = ("mean", "std", "crop_pct", "interpolation")
"""Arguments of timm's scripts that change the preprocessing; they are ``None`` or empty unless the user gave them."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: the file.
        state_dict: tensors by key, with the keys of the file; memory-mapped if the format allows it.
        architecture: the builder reference that the file states, or ``None``.
        architecture_options: the options that the file states for that build.
        recipes: insertions that the weights were trained or saved with, oldest first.
        preprocessing: how images become the model's input, if the file states it.
        image_arguments: arguments of timm's training script that change the preprocessing of the architecture.
        input: shapes of the model's inputs without the batch, if the file states them.
        sha256: digest of the file, if it was requested.
        written_by: ``cbsurgeon``, ``timm`` (or a trainer that stores ``arch`` in the same way), or empty.
        entry: name of the entry that the weights were read from; empty if they are the file's top level.
        other_entries: other entries with weights.
        edited_beside: another entry with notes of operators, if this one is a plain dictionary, which cannot have notes
            and so may have been trained with operators too; otherwise empty.
        has_arguments: a trainer saved arguments beside the weights (``args``, ``hyper_parameters`` ...).
        mapped: the tensors are memory-mapped, so that opening the file again costs no memory.
        stamp: stamp of the file when it was opened (:func:`cbsurgeon.models.files.reading.stamp`).
    """

    path: Path
    state_dict: Mapping[str, torch.Tensor] = field(repr=False)
    architecture: str | None = None
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    recipes: tuple[Mapping[str, Any], ...] = ()
    preprocessing: Preprocessing | None = None
    image_arguments: Mapping[str, Any] = field(default_factory=dict)
    input: str = ""
    sha256: str | None = None
    written_by: str = ""
    entry: str = ""
    other_entries: tuple[str, ...] = ()
    edited_beside: str = ""
    has_arguments: bool = False
    mapped: bool = False
    stamp: tuple[tuple[int, ...], ...] = ()


def open_checkpoint(
    path: str | Path, *, trust: bool = False, entry: str | None = None, digest: bool = True
) -> Checkpoint:
    """Open a file of weights; no model is built.

    Args:
        path: ``.safetensors``, a shard index, or what ``torch.save`` wrote. The contents decide, not the suffix.
        trust: unpickle other objects than weights, which runs code from the file.
        entry: which entry of a training checkpoint to read (``state_dict_ema`` ...); the first of :data:`ENTRIES` by
            default.
        digest: compute ``sha256``.

    Raises:
        InputFileError: it cannot be read safely (``CB-LOAD-*``, ``CB-ZIP-*``, ``CB-ST-*``, ``CB-META-*``), or holds no
            weights (``CB-FIT-02``).
        UsageError: it is a pickled module or a program, not a checkpoint (``CB-LOAD-17``).
    """
    opened = open_file(Path(path), trust=trust, entry=entry, digest=digest)
    if isinstance(opened, Checkpoint):
        return opened
    raise UsageError(
        "the file holds a whole model, not a checkpoint",
        code="CB-LOAD-17",
        where=str(path),
        why="only its tensors were asked for",
        do="load it as a model",
    )


def open_file(path: Path, *, trust: bool, entry: str | None, digest: bool) -> Checkpoint | nn.Module:
    """Do the same as :func:`open_checkpoint`, but return a trusted pickled module as that module."""
    files.readable(path)
    stamp, form = files.stamp(path), files.sniff(path)
    if form in ("safetensors", "index"):
        read = safetensors_file.read if form == "safetensors" else safetensors_file.read_index
        contents = read(path)
        found = Checkpoint(path, contents.tensors, mapped=True)
        document = contents.metadata.get(metadata.KEY)
    else:
        payload = torch_file.read(path, trust=trust)
        if isinstance(payload, nn.Module):
            return payload
        chosen = _unwrap(path, payload, entry)
        if isinstance(chosen, nn.Module):
            return chosen
        # A trusted pickle and a file of the old format are read into memory as a whole.
        found = replace(chosen, mapped=form == "zip" and not trust)
        document = payload.get(metadata.KEY)
    _check_tensors(path, found.state_dict)
    if document is not None:
        found = _described(found, metadata.read(document, str(path)))
    if not found.state_dict:
        raise _no_weights(path, "it holds no tensor")
    return replace(found, stamp=stamp, sha256=files.digest(path) if digest else None)


def _described(found: Checkpoint, own: metadata.Metadata) -> Checkpoint:
    """The checkpoint with the contents of our metadata; tied tensors get all their keys back."""
    state = dict(found.state_dict)
    for alias, target in own.aliases.items():
        if alias in state or target not in found.state_dict:
            raise metadata.broken(
                str(found.path),
                f"it ties {alias[:80]!r} to {target[:80]!r}, which contradicts the tensors",
                "write the file again with cbsurgeon",
            )
        state[alias] = found.state_dict[target]
    return replace(
        found,
        state_dict=state,
        architecture=own.architecture,
        architecture_options=own.architecture_options,
        recipes=own.recipes,
        preprocessing=own.preprocessing,
        input=own.input,
        written_by="cbsurgeon",
    )


def _unwrap(path: Path, payload: Any, entry: str | None) -> Checkpoint | nn.Module:
    """Find the state dict in an object that ``torch.save`` wrote."""
    if not isinstance(payload, Mapping):
        raise _no_weights(path, f"it holds a {type(payload).__name__}")
    held = _entries(payload)
    if entry is None and not held and isinstance(payload.get("model"), nn.Module):
        model: nn.Module = payload["model"]
        return model
    if entry is None and _is_state(payload):
        return Checkpoint(path, dict(payload), recipes=notes.read(payload, str(path)))
    chosen = _chosen(path, payload, held, entry)
    architecture, options = _named(payload)
    recipes = notes.read(payload[chosen], str(path))
    silent = not recipes and not hasattr(payload[chosen], "_metadata")
    edited = [name for name in held if silent and notes.read(payload[name], str(path))]
    return Checkpoint(
        path,
        dict(payload[chosen]),
        architecture=architecture,
        architecture_options=options,
        recipes=recipes,
        edited_beside=next(iter(edited), ""),
        image_arguments=_image_arguments(payload),
        has_arguments=_has_arguments(payload),
        written_by="timm" if architecture else "",
        entry=chosen,
        other_entries=tuple(name for name in held if name != chosen),
    )


def _entries(payload: Mapping[Any, Any]) -> list[str]:
    """Entries that hold weights, those with a usual name first."""
    states = [
        name
        for name, value in payload.items()
        if isinstance(name, str) and isinstance(value, Mapping) and _is_state(value)
    ]
    usual = [name for name in ENTRIES if name in states]
    return [*usual, *(name for name in states if name not in usual)]


def _chosen(path: Path, payload: Mapping[Any, Any], held: list[str], entry: str | None) -> str:
    """The entry to read: the requested one, the first with a usual name, or the only one."""
    if entry is not None and entry in held:
        return entry
    if entry is not None or not held:
        names = ", ".join(held) if held else ", ".join(str(key)[:40] for key in list(payload)[:8])
        asked = f"no entry {entry!r} with weights" if entry is not None else "no state dict"
        which = "; those with weights are" if held else "; its keys are"
        raise _no_weights(path, f"it has {asked}{which} {names}{' ...' if not held and len(payload) > 8 else ''}", held)
    if held[0] in ENTRIES or len(held) == 1:
        return held[0]
    raise UsageError(
        "the checkpoint holds several state dicts, and none has a usual name",
        code="CB-LOAD-25",
        where=str(path),
        why="; ".join(f"{name} has {len(payload[name])} tensors" for name in held[:8]),
        do=f"choose one: --entry {max(held, key=lambda name: len(payload[name]))}",
    )


def _has_arguments(payload: Mapping[Any, Any]) -> bool:
    """Whether a trainer saved the arguments of its model."""
    return any(payload.get(name) for name in ("args", "hyper_parameters", "hparams", "config", "cfg"))


def _arguments(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments that a training script saved, if there are any."""
    given = payload.get("args")
    return vars(given) if hasattr(given, "__dict__") else given if isinstance(given, Mapping) else {}


def _image_arguments(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The saved arguments that change the preprocessing."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

    found = {name: value for name, value in _arguments(payload).items() if name in _IMAGE_ARGUMENTS and value}
    for name in ("mean", "std"):
        value = found.get(name)
        if not isinstance(value, list | tuple) or not all(map(number, value)) or len(value) > 4:
            found.pop(name, None)
    crop = found.get("crop_pct", 0)
    if not number(crop) or not 0 < crop <= 1:
        found.pop("crop_pct", None)
    if not isinstance(found.get("interpolation"), str):
        found.pop("interpolation", None)
    return found


def _named(payload: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The architecture that a training checkpoint names (in ``arch``, or ``model`` of its arguments) and its
    options."""
    arguments = _arguments(payload)
    name = payload.get("arch")
    if not isinstance(name, str):
        name = arguments.get("model")
    if not isinstance(name, str) or not name or len(name) > 200:
        return None, {}
    options = {key: arguments[key] for key in _BUILD_ARGUMENTS if isinstance(arguments.get(key), int)}
    size = arguments.get("input_size")
    if "img_size" not in options and isinstance(size, list | tuple) and len(size) == 3:
        options["img_size"] = size[1] if size[1] == size[2] else list(size[1:])
    further = arguments.get("model_kwargs")
    further = {str(key): value for key, value in further.items()} if isinstance(further, Mapping) else {}
    if name == timms.NAME and isinstance(further.get(timms.OF), str):
        name, further = further[timms.OF], timms.architecture(further)
    return name, {**options, **further}


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(item, torch.Tensor) for item in value.values())


def _check_tensors(path: Path, state: Mapping[Any, torch.Tensor]) -> None:
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise _no_weights(path, f"the key {str(key)[:40]!r} is not text")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise InputFileError(
                "the file holds tensors that are not dense",
                code="CB-LOAD-15",
                where=str(path),
                why=f"{key!r} has layout {tensor.layout} on device {tensor.device}",
                do="store dense tensors: tensor.to_dense(), tensor.dequantize()",
            )


def _no_weights(path: Path, why: str, held: list[str] | None = None) -> InputFileError:
    return InputFileError(
        "the file holds no weights" + (" under that name" if held else ""),
        code="CB-FIT-02",
        where=str(path),
        why=why,
        do=f"choose one: --entry {held[0]}"
        if held
        else "save the model's state dict: torch.save(model.state_dict(), 'weights.pt')",
    )
