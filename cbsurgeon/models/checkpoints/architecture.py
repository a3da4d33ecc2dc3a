"""Build the architecture of a checkpoint without its weights, and load the weights into it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbsurgeon.errors import InputFileError, UsageError, nearest
from cbsurgeon.models import builders, memory, spelling
from cbsurgeon.models import inputs as example
from cbsurgeon.models.builders import timm, torchvision, weightless
from cbsurgeon.models.builders.image_processing import of_training
from cbsurgeon.models.checkpoints import shapes
from cbsurgeon.models.checkpoints.fitting import adopt, advice, differences, fit, take_dtypes
from cbsurgeon.models.files import metadata, reading
from cbsurgeon.models.files.checkpoint import Checkpoint
from cbsurgeon.models.files.mapped import in_groups
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.preprocessing import resized
from cbsurgeon.models.reference import Reference, parse_builder

_UNUSED = "the arguments saved beside them were not used (--model-option KEY=VALUE gives them to the factory)"
_MODULES_PER_TENSOR, _MODULES_AT_LEAST = 20, 2000
_LARGEST_OPTION = 1 << 20


def architecture(
    checkpoint: Checkpoint,
    *,
    arch: str | None = None,
    options: Mapping[str, Any] | None = None,
    input: str | None = None,
    inputs: Path | None = None,
    batch: int = 2,
    most_memory: int | None = None,
) -> Model:
    """Build the architecture of a checkpoint, without its insertions and without its weights.

    This is the first half of loading: repeat the checkpoint's recipes on the result, then call :func:`finish`. What the
    file claims is first compared with its tensors on the meta device, so that a small file cannot ask for a large
    model. By default, ``most_memory`` (bytes) follows from the size of the file.

    Raises:
        UsageError: no architecture is named (``CB-LOAD-20``); the file names one that runs code (``CB-LOAD-21``).
        InputFileError: keys are missing or shapes differ (``CB-FIT-01``).
    """
    reference, stated = _reference(checkpoint, arch)
    given = {**stated, **(options or {})}
    state, implied = checkpoint.state_dict, {}
    limit = _MODULES_AT_LEAST + _MODULES_PER_TENSOR * len(state)
    most = memory.of_file(reading.sizes(checkpoint.stamp)) if most_memory is None else most_memory
    bare = builders.skeleton(reference, given, limit, most)
    if bare is not None:
        state = shapes.plain(state, bare.state_dict())
        if checkpoint.written_by != "cbsurgeon":
            found = shapes.options(reference, bare, state)
            implied = {key: value for key, value in found.items() if key not in given}
        if implied:
            bare = builders.skeleton(reference, {**given, **implied}, limit, most) or bare
        state = _own_keys(bare, state)
        _check_claims(checkpoint, bare, state)
    model = builders.build(
        reference,
        options={**given, **implied},
        input=input,
        inputs=inputs,
        otherwise=_stated_input(checkpoint),
        batch=batch,
        weightless=bare is not None,
        most_memory=most,
    )
    if model.module is not None and any(parameter.is_meta for parameter in model.module.parameters()):
        take_dtypes(model.module, state)  # before memory is allocated for the parameters, so that nothing is copied
        weightless.allocate(model.module)
        model = _matching_inputs(model, state)
    origin = Provenance(
        str(checkpoint.path),
        model.provenance.architecture,
        model.provenance.architecture_options,
        checkpoint.sha256,
        source="file",
        entry=checkpoint.entry,
        other_entries=checkpoint.other_entries,
        note=_UNUSED if checkpoint.has_arguments and reference.kind == "mod" else "",
    )
    preprocessing = checkpoint.preprocessing
    if preprocessing is None and checkpoint.image_arguments:
        preprocessing = of_training(model, checkpoint.image_arguments)
    if preprocessing is not None and model.preprocessing is not None:
        preprocessing = resized(preprocessing, model.preprocessing.size)
    return replace(model, provenance=origin, preprocessing=preprocessing or model.preprocessing)


def finish(model: Model, checkpoint: Checkpoint) -> Model:
    """Load a checkpoint's weights strictly into its architecture, after its recipes were repeated.

    The module is changed in place. Example inputs are cast to the weights' floating-point type.

    Raises:
        InputFileError: the weights do not fit (``CB-FIT-01``).
    """
    if model.module is None:
        raise UsageError(
            "the model has no module to load weights into",
            code="CB-LOAD-17",
            where=str(checkpoint.path),
            why="it is a program, whose weights are part of its graph",
            do="give an architecture that is a module: --arch timm:NAME",
        )
    plain = shapes.plain(checkpoint.state_dict, model.module.state_dict())
    state = _own_keys(model.module, plain)
    fit(model.module, state, str(checkpoint.path), in_groups(checkpoint, state))
    return _matching_inputs(model, checkpoint.state_dict)


def left_mapped(model: Model, checkpoint: Checkpoint) -> Model | None:
    """Return the model with the memory-mapped tensors of the file as weights, or ``None`` if they must be copied."""
    module = model.module
    if module is None or not checkpoint.mapped:
        return None
    state = shapes.plain(checkpoint.state_dict, module.state_dict())
    if differences(module.state_dict(), state) or not adopt(module, state):
        return None
    return replace(_matching_inputs(model, state), weights=checkpoint)


def _own_keys(module: nn.Module, state: shapes.State) -> shapes.State:
    """The state dict with the architecture's keys: as it is, or as timm converts published files."""
    if not differences(module.state_dict(), state):
        return state
    return timm.translated(module, state) or state


def _matching_inputs(model: Model, state: Mapping[str, torch.Tensor]) -> Model:
    floating = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(floating) != 1 or floating == {torch.float32}:
        return model
    dtype = floating.pop()

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    keywords = {name: cast(value) for name, value in model.example_kwargs.items()}
    return replace(model, example_inputs=tuple(map(cast, model.example_inputs)), example_kwargs=keywords)


def _stated_input(checkpoint: Checkpoint) -> str:
    """The shapes of the inputs that the file states, after a check that they can be read."""
    if not checkpoint.input:
        return ""
    try:
        example.parse(checkpoint.input)
    except UsageError as error:
        raise metadata.broken(
            str(checkpoint.path),
            f"its input {checkpoint.input[:80]!r} is not a shape",
            "write the file again with cbsurgeon",
        ) from error
    return checkpoint.input


def _reference(checkpoint: Checkpoint, arch: str | None) -> tuple[Reference, Mapping[str, Any]]:
    """The builder to use, and the options that the file states for it."""
    stated = checkpoint.architecture
    if arch is not None:
        wanted = spelling.builder(arch)
        same = stated in (str(wanted), wanted.name)
        return wanted, _bounded(checkpoint) if same else {}
    if stated is None:
        raise _nameless(checkpoint)
    reference = parse_builder(stated) if checkpoint.written_by == "cbsurgeon" else _trained(checkpoint, stated)
    plain = reference.kind != "mod" and reference.name.replace(".", "_").isidentifier()
    if not plain:
        raise UsageError(
            "the checkpoint names an architecture that a file may not name",
            code="CB-LOAD-21",
            where=str(checkpoint.path),
            why=f"{str(reference)[:120]} imports code or reads other files; only the user may ask for that",
            do=f"if it is your own code, give it yourself: --arch {str(reference)[:120]}",
        )
    return reference, _bounded(checkpoint)


def _bounded(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The options that a file states, after a check that no number among them is too large."""
    pending: list[Any] = [dict(checkpoint.architecture_options)]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, int | float) and not abs(value) <= _LARGEST_OPTION:
            raise metadata.broken(
                str(checkpoint.path),
                f"an option of its architecture is {str(value)[:40]}, larger than in any architecture",
                "do not use this file, or state the architecture yourself with --arch",
            )
    return checkpoint.architecture_options


def _trained(checkpoint: Checkpoint, name: str) -> Reference:
    """The builder of ``arch`` in a training checkpoint: a name of timm, otherwise of torchvision."""
    for kind, library in (("timm", timm), ("torchvision", torchvision)):
        if library.knows(name):
            return Reference(kind, name)
    near = nearest(name, timm.all_names())
    raise UsageError(
        f"the checkpoint names the architecture {name[:80]!r}, which neither timm nor torchvision has",
        code="CB-REF-02",
        where=str(checkpoint.path),
        why=f"the nearest names are {', '.join(near)}" if near else "no known name is similar",
        do=f"cbsurgeon inspect {checkpoint.path} --arch timm:{near[0] if near else 'NAME'}",
    )


def _nameless(checkpoint: Checkpoint) -> UsageError:
    keys = list(checkpoint.state_dict)
    return UsageError(
        "the file holds weights but does not name their architecture",
        code="CB-LOAD-20",
        where=str(checkpoint.path),
        why=f"it has {len(keys)} tensors: {', '.join(key[:60] for key in keys[:3])}{' ...' if len(keys) > 3 else ''}",
        do="name it: --arch timm:NAME, --arch torchvision:NAME, --arch hf:CLASS, or your own function that builds it, "
        "--arch mod:path/to/file.py:FUNCTION",
    )


def _check_claims(checkpoint: Checkpoint, bare: nn.Module, state: shapes.State) -> None:
    own = bare.state_dict()
    held = {key: value for key, value in state.items() if key in own} if checkpoint.recipes else state
    problems = differences(own, held)
    if problems:
        raise InputFileError(
            "the weights do not fit the architecture",
            code="CB-FIT-01",
            where=str(checkpoint.path),
            why="; ".join(problems),
            do=advice(own, held),
        )
