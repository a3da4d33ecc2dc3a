"""Read files of ``torch.save`` with ``weights_only=True``; only files that the user trusts are read otherwise."""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import archive
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files.pickles import scan as pickle_scan
from cbsurgeon.models.files.pickles.machine import Refused, Scan

_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of every file of torch before 1.6: one pickled number."""


def read(path: Path, *, trust: bool = False) -> Any:
    """Return the object in a checkpoint: tensors (memory-mapped if the format allows it) in plain containers.

    With ``trust``, a pickle of other objects is unpickled, which runs its code. Without, it is refused; a file that was
    refused is never read again with fewer limits.

    Raises:
        InputFileError: TorchScript (``CB-LOAD-11``), a pickle that rebuilds objects (``CB-LOAD-12``), an exported
            program (``CB-LOAD-13``), tensors that are not dense (``CB-LOAD-15``), claims beyond the file's size
            (``CB-LOAD-16``), damage (``CB-LOAD-07``), an unsafe archive (``CB-ZIP-*``).
    """
    zipped = files.sniff(path) == "zip"
    if zipped:
        _refuse_other_archives(path)
    try:
        if zipped:
            _scan_archive(path)
        else:
            _scan_legacy(path)
    except Refused as refused:
        if refused.kind == "object" and trust:
            return _read_trusted(path)
        raise _refusal(path, refused) from refused
    return _read_weights(path, mapped=zipped)


def is_program(path: Path) -> bool:
    """Whether an archive is an exported program (``.pt2``)."""
    names = {name.partition("/")[2] or name for name in archive.names(path)}
    return "archive_format" in names or "serialized_exported_program.json" in names or "models/model.json" in names


def _refuse_other_archives(path: Path) -> None:
    names = archive.names(path)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise InputFileError(
            "the file is TorchScript",
            code="CB-LOAD-11",
            where=str(path),
            why="it holds compiled code and no module to insert operators into",
            do="in the program that made it: torch.save(torch.jit.load(file).state_dict(), 'weights.pt'); "
            "then: cbsurgeon inspect weights.pt --arch timm:NAME",
        )
    if names and all(name.endswith(".npy") for name in names):
        raise InputFileError(
            "the file is a NumPy archive",
            code="CB-LOAD-06",
            where=str(path),
            why="it holds arrays without the names of a state dict",
            do=f"give a checkpoint; arrays are inputs: --inputs {path}",
        )
    if "data.pkl" not in inner:
        raise InputFileError(
            "the zip archive is not a checkpoint",
            code="CB-LOAD-06",
            where=str(path),
            why="it has no data.pkl, which torch.save writes",
            do="unpack it and name the checkpoint inside",
        )


def _scan_archive(path: Path) -> None:
    opened = archive.check(path)
    if opened.members["data.pkl"].size > pickle_scan.LARGEST:
        raise Refused("limit", f"its pickle is longer than {pickle_scan.LARGEST >> 20} MiB")
    found = pickle_scan.scan(io.BytesIO(opened.read("data.pkl", pickle_scan.LARGEST)))
    for storage in found.storages.values():
        member = opened.members.get(f"data/{storage.key}")
        held = member.size if member else 0
        if held != storage.size:
            raise Refused("limit", f"storage {storage.key[:40]!r} claims {storage.size} bytes and has {held}")


def _scan_legacy(path: Path) -> None:
    """Scan the pickles of the old format, and check that the storages fill the rest of the file exactly."""
    with path.open("rb") as file:
        opened = io.BytesIO(file.read(2 * pickle_scan.LARGEST))
    if opened.read(len(_MAGIC)) != _MAGIC:
        raise Refused("object", "it is a pickle that torch.save did not write")
    for _ in ("protocol", "system"):
        pickle_scan.scan(opened)
    main: Scan = pickle_scan.scan(opened)
    pickle_scan.scan(opened)
    rest = files.size(path) - opened.tell()
    needed = sum(8 + storage.size for storage in main.storages.values())
    if needed != rest:
        raise Refused("limit", f"its storages claim {needed} bytes and {rest} follow")


def _read_weights(path: Path, mapped: bool) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        # The file passed the scan, so any error of the reader means that the file is damaged.
        lines = str(error).splitlines() or [""]
        raise files.truncated(path, f"torch cannot read it: {type(error).__name__}: {lines[0][:160]}") from error


def _read_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        # Unpickling runs the file's own program, which may raise anything.
        lines = str(error).splitlines() or [""]
        raise InputFileError(
            "the pickled object could not be rebuilt",
            code="CB-LOAD-14",
            where=str(path),
            why=f"{type(error).__name__}: {lines[0][:160]}",
            do="run where the classes it names can be imported, or save a state dict instead",
        ) from error


def _refusal(path: Path, refused: Refused) -> InputFileError:
    if refused.kind == "object":
        return InputFileError(
            "the file is a pickle of objects, not of weights",
            code="CB-LOAD-12",
            where=str(path),
            why=f"{refused.why}; rebuilding objects runs code from the file",
            do="in the program that made it: torch.save(model.state_dict(), 'weights.pt'), then: "
            "cbsurgeon inspect weights.pt --arch timm:NAME; or, only for a file of your own, add --trust",
        )
    if refused.kind == "layout":
        return InputFileError(
            "the file holds tensors that are not dense",
            code="CB-LOAD-15",
            where=str(path),
            why=refused.why,
            do="store dense tensors: tensor.to_dense(), tensor.dequantize()",
        )
    if refused.kind == "limit":
        return InputFileError(
            "the file claims more than it holds",
            code="CB-LOAD-16",
            where=str(path),
            why=refused.why,
            do="download it again, or write it again with torch.save or safetensors",
        )
    return files.truncated(path, refused.why)
