"""``load``: load a model from any reference or file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models import builders, spelling
from cbsurgeon.models import exported as program
from cbsurgeon.models import inputs as example
from cbsurgeon.models.builders.hf_directory import Insertions
from cbsurgeon.models.builders.pretrained import is_tagged
from cbsurgeon.models.checkpoints.architecture import architecture, finish, left_mapped
from cbsurgeon.models.files import notes
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files import torch_archive as torch_file
from cbsurgeon.models.files.checkpoint import Checkpoint, open_file
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.reference import Reference
from cbsurgeon.options import Loading, resolve

Replay = Callable[[Model, tuple[Mapping[str, Any], ...]], Model]
"""Repeats insertions: takes the architecture, which is changed in place, and recipe documents; returns the edited
model.
"""


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
        loading: how to read it; or its fields as keywords. Its ``recipe`` is ignored in favour of ``recipes``.
        replay: repeats the insertions that a checkpoint was saved with, before its weights are loaded.
        recipes: insertions that the weights were trained with, for a checkpoint or a folder without recipes.

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
            found,
            options=options,
            input=input,
            inputs=inputs,
            batch=batch,
            insertions=again,
            weights=weights,
            most_memory=given.max_memory,
        )
    if given.pretrained or given.random_weights:
        raise UsageError(
            "a file has its own weights",
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
    how["most_memory"] = given.max_memory
    if given.mapped:
        return _filled(opened, recipes, replay, True, **how)
    with files.Digest(found) as digest:
        model = _filled(opened, recipes, replay, False, **how)
        return replace(model, provenance=replace(model.provenance, sha256=digest.result()))


def _which_weights(reference: Reference, given: Loading) -> Literal["random", "cached", "downloaded"]:
    """Which weights a reference gets; ``timm:NAME.TAG`` gets random ones only if the user asks for them."""
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
    """Repeat insertions on a module, in place."""
    replay(Model(module), recipes)


def _filled(
    opened: Checkpoint,
    recipes: Sequence[Mapping[str, Any]],
    replay: Replay | None,
    mapped: bool,
    **how: Any,
) -> Model:
    """Build the architecture, repeat the insertions, and load the weights."""
    if opened.edited_beside and not recipes:
        raise InputFileError(
            "it is unknown whether these weights were trained with operators",
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
            why=f"{len(opened.recipes)} recipes must be inserted before its weights are loaded",
            do="load it with cbsurgeon.load, which inserts them",
        )
    bare = architecture(opened, **how)
    model = replay(bare, opened.recipes) if replay is not None and opened.recipes else bare
    return (left_mapped(model, opened) if mapped else None) or finish(model, opened)


def _program(path: Path, *, trust: bool, unused: Mapping[str, Any]) -> Model:
    """Read an exported program, which contains its architecture and example inputs."""
    program.require_trust(path, trust)
    _refuse_unused(path, unused, "an exported program")
    return program.read(path, trust=trust)


def _refuse_unused(path: Path, options: Mapping[str, Any], what: str) -> None:
    """Refuse options that do not apply to a file that holds a whole model."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"{given[0]} has no meaning for {what}",
            code="CB-LOAD-23",
            where=str(path),
            why="it contains its architecture and insertions"
            + (" and example inputs" if what == "an exported program" else ""),
            do=f"leave out {' and '.join(given)}",
        )


def _whole(path: Path, module: nn.Module, *, input: str | None, inputs: Path | None, batch: int) -> Model:
    """Return a trusted pickled module as a model."""
    model = replace(
        builders.guess(module.eval(), batch), provenance=Provenance(str(path), sha256=files.digest(path), source="file")
    )
    if input is not None or inputs is not None:
        return example.override(model, input=input, inputs=inputs, batch=batch)
    return example.require(model)
