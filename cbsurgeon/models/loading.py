"""``load``: any reference → a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cbsurgeon.errors import InputFileError, UsageError, nearest
from cbsurgeon.models import builders, spelling
from cbsurgeon.models import exported as program
from cbsurgeon.models import inputs as example
from cbsurgeon.models.builders import timm, torchvision, weightless
from cbsurgeon.models.builders.hf_directory import Insertions
from cbsurgeon.models.builders.pretrained import is_tagged
from cbsurgeon.models.checkpoints import shapes
from cbsurgeon.models.checkpoints.fitting import adopt, advice, differences, fit, take_dtypes
from cbsurgeon.models.files import notes
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files import torch_archive as torch_file
from cbsurgeon.models.files.checkpoint import Checkpoint, open_file
from cbsurgeon.models.files.mapped import portions
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.preprocessing import resized
from cbsurgeon.models.reference import Reference, parse_builder
from cbsurgeon.options import Loading, resolve

Replay = Callable[[Model, tuple[Mapping[str, Any], ...]], Model]
"""Repeats insertions: takes the bare architecture, which is changed, and recipe documents; gives the model they were
made on.
"""

_UNUSED = "the arguments saved beside them were not used (--model-option KEY=VALUE gives them to the factory)"
_MODULES_PER_TENSOR, _MODULES_AT_LEAST = 20, 2000
_LARGEST_OPTION = 1 << 20


def load(
    reference: str | Path,
    loading: Loading | None = None,
    /,
    *,
    replay: Replay | None = None,
    recipes: tuple[Mapping[str, Any], ...] = (),
    **keywords: Any,
) -> Model:
    """Load a model from a builder reference or a file.

    Args:
        reference: ``timm:NAME``, ``torchvision:NAME``, ``hf:CLASS``, ``hf:DIRECTORY``,
            ``mod:package.module:factory``, or a file.
        loading: how to read it; or its fields as keywords. Its ``recipe`` is not used here, but ``recipes``.
        replay: repeats the insertions a checkpoint was saved with, before its weights are loaded.
        recipes: insertions the weights were trained with, for a checkpoint or a folder that does not say so itself.

    Raises:
        UsageError: a bad reference or option (``CB-REF-*``, ``CB-INPUT-*``), a file that names no architecture
            (``CB-LOAD-20``) or one that needs code (``CB-LOAD-21``), insertions and no ``replay`` (``CB-LOAD-22``).
        InputFileError: the file cannot be read safely, or its weights do not fit (``CB-FIT-01``).
        MissingPackage: a library the reference needs is absent.
    """
    given = resolve(Loading, loading, keywords, "load")
    arch, entry, trust = given.arch, given.entry, given.trust
    input, inputs, options, batch = given.input, given.inputs, given.options, given.batch
    found = spelling.reference(str(reference))
    if isinstance(found, Reference):
        if arch is not None:
            raise UsageError(
                "--arch is for files",
                code="CB-REF-01",
                where=str(reference),
                why="this reference names its architecture itself",
                do="leave out --arch",
            )
        if recipes and (replay is None or not builders.is_folder(found)):
            raise UsageError(
                "a recipe is for a file of weights",
                code="CB-REF-01",
                where=str(reference),
                why="it says what the weights in a file were trained with",
                do="insert it: cbs.insert(cbs.load(reference), recipe)",
            )
        weights = _which_weights(found, given)
        again = None if replay is None else Insertions(functools.partial(_replayed, replay), recipes)
        return builders.build(
            found, options=options, input=input, inputs=inputs, batch=batch, insertions=again, weights=weights
        )
    if given.pretrained or given.random_weights:
        raise UsageError(
            "a file brings its weights",
            code="CB-WEIGHTS-02",
            where=str(reference),
            do=f"leave out {'--pretrained' if given.pretrained else '--random-weights'}",
        )
    files.readable(found)
    if files.sniff(found) == "zip" and torch_file.is_program(found):
        unused = {"--arch": arch, "--input": input, "--inputs": inputs, "--entry": entry}
        return _program(found, trust=trust, unused={**unused, "--trained-with": recipes, "--model-option": options})
    opened = open_file(found, trust=trust, entry=entry, digest=False)
    if isinstance(opened, nn.Module):
        _refuse_unused(
            found, {"--arch": arch, "--trained-with": recipes, "--model-option": options}, "a pickled module"
        )
        return _whole(found, opened, input=input, inputs=inputs, batch=batch)
    how: dict[str, Any] = {"arch": arch, "options": options, "input": input, "inputs": inputs, "batch": batch}
    if given.mapped:
        return _filled(opened, recipes, replay, True, **how)
    with files.Digest(found) as digest:
        model = _filled(opened, recipes, replay, False, **how)
        return replace(model, provenance=replace(model.provenance, sha256=digest.result()))


def _which_weights(reference: Reference, given: Loading) -> Literal["random", "cached", "downloaded"]:
    """``timm:NAME.TAG`` names weights: random ones are an answer only where the user asks for them."""
    if given.pretrained and given.random_weights:
        raise UsageError(
            "--pretrained and --random-weights exclude each other",
            code="CB-WEIGHTS-02",
            where=str(reference),
            do="give one of the two",
        )
    if given.pretrained:
        return "downloaded"
    return "cached" if is_tagged(reference) and not given.random_weights else "random"


def _replayed(replay: Replay, module: nn.Module, recipes: notes.Recipes) -> None:
    """Repeat insertions on a module that is being made."""
    replay(Model(module), recipes)


def _filled(
    opened: Checkpoint,
    recipes: Sequence[Mapping[str, Any]],
    replay: Replay | None,
    mapped: bool,
    **how: Any,
) -> Model:
    """The architecture, the insertions, the weights."""
    if opened.edited_beside and not recipes:
        raise InputFileError(
            "it is not known whether these weights were trained with operators",
            code="CB-META-05",
            where=f"{opened.path}, entry {opened.entry}",
            why=f"entry {opened.edited_beside} notes its operators, and this one was copied into a plain dictionary, "
            "which holds no notes",
            do=f"give the recipe (--trained-with, or cbs.load(file, recipe=...)), or --entry {opened.edited_beside}",
        )
    opened = replace(opened, recipes=notes.joined(opened.recipes, recipes, str(opened.path)))
    if opened.recipes and replay is None:
        raise UsageError(
            "the checkpoint was saved with insertions",
            code="CB-LOAD-22",
            where=str(opened.path),
            why=f"{len(opened.recipes)} recipes must be replayed before its weights mean what they meant",
            do="load it with cbsurgeon.load, which replays them",
        )
    bare = architecture(opened, **how)
    model = replay(bare, opened.recipes) if replay is not None and opened.recipes else bare
    return (_left_mapped(model, opened) if mapped else None) or finish(model, opened)


def architecture(
    checkpoint: Checkpoint,
    *,
    arch: str | None = None,
    options: Mapping[str, Any] | None = None,
    input: str | None = None,
    inputs: Path | None = None,
    batch: int = 2,
) -> Model:
    """Build the architecture a checkpoint belongs to, with no insertions; its weights mean nothing yet.

    The first half of loading: replay the checkpoint's recipes on the result, then call :func:`finish`. What the file
    claims is compared with its tensors on the meta device first, so a small file cannot ask for a large model.

    Raises:
        UsageError: no architecture is named (``CB-LOAD-20``); the file names one that runs code (``CB-LOAD-21``).
        InputFileError: keys are missing or shapes differ (``CB-FIT-01``).
    """
    reference, stated = _reference(checkpoint, arch)
    given = {**stated, **(options or {})}
    state, implied = checkpoint.state_dict, {}
    limit = _MODULES_AT_LEAST + _MODULES_PER_TENSOR * len(state)
    bare = builders.skeleton(reference, given, limit)
    if bare is not None:
        state = shapes.plain(state, bare.state_dict())
        if checkpoint.written_by != "cbsurgeon":
            found = shapes.options(reference, bare, state)
            implied = {key: value for key, value in found.items() if key not in given}
        if implied:
            bare = builders.skeleton(reference, {**given, **implied}, limit) or bare
        state = _own_keys(bare, state)
        _check_claims(checkpoint, bare, state)
    model = builders.build(
        reference,
        options={**given, **implied},
        input=input,
        inputs=inputs,
        batch=batch,
        weightless=bare is not None,
    )
    if model.module is not None and any(parameter.is_meta for parameter in model.module.parameters()):
        take_dtypes(model.module, state)  # costs nothing as long as there is no memory behind them
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
    if preprocessing is not None and model.preprocessing is not None:
        preprocessing = resized(preprocessing, model.preprocessing.size)
    return replace(model, provenance=origin, preprocessing=preprocessing or model.preprocessing)


def finish(model: Model, checkpoint: Checkpoint) -> Model:
    """Load a checkpoint's weights into the architecture (after its recipes were replayed), strictly.

    The module is changed in place; example inputs take the weights' floating-point type.

    Raises:
        InputFileError: the weights do not fit (``CB-FIT-01``).
    """
    if model.module is None:
        raise UsageError(
            "the model has no module to load weights into",
            code="CB-LOAD-17",
            where=str(checkpoint.path),
            do="give an architecture that is a module: --arch timm:NAME",
        )
    plain = shapes.plain(checkpoint.state_dict, model.module.state_dict())
    state = _own_keys(model.module, plain)
    fit(model.module, state, str(checkpoint.path), portions(checkpoint, state))
    return _matching_inputs(model, checkpoint.state_dict)


def _left_mapped(model: Model, checkpoint: Checkpoint) -> Model | None:
    """The model with the file's own mapped tensors as its weights, or ``None`` where they have to be copied."""
    module = model.module
    if module is None or not checkpoint.mapped:
        return None
    state = shapes.plain(checkpoint.state_dict, module.state_dict())
    if differences(module.state_dict(), state) or not adopt(module, state):
        return None
    return replace(_matching_inputs(model, state), weights=checkpoint)


def _own_keys(module: nn.Module, state: shapes.State) -> shapes.State:
    """The state dict in the architecture's keys: as it is, or as timm translates the files its authors published."""
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


def _reference(checkpoint: Checkpoint, arch: str | None) -> tuple[Reference, Mapping[str, Any]]:
    """The builder to use and the options the file states for it."""
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
            why=f"{str(reference)[:120]} imports code or reads other files; only you may ask for that",
            do=f"if it is your own, say so: --arch {str(reference)[:120]}",
        )
    return reference, _bounded(checkpoint)


def _bounded(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The options a file states, once no number among them is absurd."""
    pending: list[Any] = [dict(checkpoint.architecture_options)]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, int | float) and not abs(value) <= _LARGEST_OPTION:
            raise InputFileError(
                "the checkpoint's description of itself cannot be read",
                code="CB-META-01",
                where=str(checkpoint.path),
                why=f"an option of its architecture is {str(value)[:40]}, beyond any architecture",
                do="do not use this file, or state the architecture yourself with --arch",
            )
    return checkpoint.architecture_options


def _trained(checkpoint: Checkpoint, name: str) -> Reference:
    """The builder behind ``arch`` in a training checkpoint: timm's names, then torchvision's, which trainers share."""
    for kind, library in (("timm", timm), ("torchvision", torchvision)):
        if library.knows(name):
            return Reference(kind, name)
    near = nearest(name, timm.all_names())
    raise UsageError(
        f"the checkpoint names the architecture {name[:80]!r}, which neither timm nor torchvision has",
        code="CB-REF-02",
        where=str(checkpoint.path),
        why=f"the nearest names are {', '.join(near)}" if near else "no known name is like it",
        do=f"cbsurgeon inspect {checkpoint.path} --arch timm:{near[0] if near else 'NAME'}",
    )


def _nameless(checkpoint: Checkpoint) -> UsageError:
    keys = list(checkpoint.state_dict)
    return UsageError(
        "the file holds weights and does not name their architecture",
        code="CB-LOAD-20",
        where=str(checkpoint.path),
        why=f"it has {len(keys)} tensors: {', '.join(key[:60] for key in keys[:3])}{' ...' if len(keys) > 3 else ''}",
        do=f"cbsurgeon inspect {checkpoint.path} --arch timm:NAME  (or torchvision:NAME, hf:CLASS, mod:MODULE:FACTORY)",
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


def _program(path: Path, *, trust: bool, unused: Mapping[str, Any]) -> Model:
    """An exported program, which has an architecture and example inputs of its own."""
    program.require_trust(path, trust)
    _refuse_unused(path, unused, "an exported program")
    return program.read(path, trust=trust)


def _refuse_unused(path: Path, options: Mapping[str, Any], what: str) -> None:
    """Refuse options that a file which holds a whole model has no use for."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"{given[0]} has no meaning for {what}",
            code="CB-LOAD-23",
            where=str(path),
            why="it brings its own architecture and insertions"
            + (" and example inputs" if what == "an exported program" else ""),
            do=f"leave out {' and '.join(given)}",
        )


def _whole(path: Path, module: nn.Module, *, input: str | None, inputs: Path | None, batch: int) -> Model:
    """A trusted pickled module as a model."""
    model = replace(
        builders.guess(module.eval(), batch), provenance=Provenance(str(path), sha256=files.digest(path), source="file")
    )
    if input is not None or inputs is not None:
        return example.override(model, input=input, inputs=inputs, batch=batch)
    return example.require(model)
