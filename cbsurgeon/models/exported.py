"""Read ``.pt2`` files: exported programs, which can run code when they are read."""

from __future__ import annotations

from pathlib import Path

import torch

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import archive, metadata
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.model import Model, Provenance


def require_trust(path: Path, trust: bool) -> None:
    """Refuse an exported program unless the user trusts it (``CB-LOAD-13``)."""
    if not trust:
        raise InputFileError(
            "the file is an exported program",
            code="CB-LOAD-13",
            where=str(path),
            why="reading a .pt2 file can run code it contains; the format has no safe mode",
            do="only for a file of your own, add --trust; else give the weights and the architecture: "
            "cbsurgeon inspect weights.safetensors --arch timm:NAME",
        )


def read(path: Path, *, trust: bool) -> Model:
    """Read an exported program, with its own example inputs and the recipes it was saved with.

    Raises:
        InputFileError: ``trust`` was not given (``CB-LOAD-13``), the archive is unsafe (``CB-ZIP-*``), or this torch
            cannot read it (``CB-LOAD-14``).
    """
    require_trust(path, trust)
    archive.check(path)
    notes = {metadata.KEY: ""}
    try:
        exported = torch.export.load(path, extra_files=notes)
    except Exception as error:
        # Reading runs the file's own program, which may raise anything.
        lines = str(error).splitlines() or [""]
        raise InputFileError(
            "the exported program could not be read",
            code="CB-LOAD-14",
            where=str(path),
            why=f"{type(error).__name__}: {lines[0][:160]}",
            do="export it again with this version of torch",
        ) from error
    own = metadata.read(notes[metadata.KEY], str(path)) if notes[metadata.KEY] else metadata.Metadata()
    positional, keywords = exported.example_inputs or ((), {})
    origin = Provenance(str(path), own.architecture, own.architecture_options, files.digest(path), source="file")
    return Model(None, tuple(positional), origin, dict(keywords), exported, own.recipes, own.preprocessing)
