"""Read ``.npz`` inputs safely: without pickle, and with a limit on their size."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import archive
from cbsurgeon.models.files import reading as files

LARGEST = 1 << 30
"""Largest size in bytes of all arrays, unpacked."""

TYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
)
"""Types of arrays that torch has as well."""


def read_arrays(path: str | Path) -> dict[str, numpy.ndarray[Any, Any]]:
    """Return the arrays of an ``.npz`` file by name, in this machine's byte order; numbers and booleans only.

    Raises:
        InputFileError: missing, damaged, unsafe (as a checkpoint), or it holds objects or text (``CB-INPUT-03``).
    """
    found = files.readable(Path(path))
    if files.sniff(found) != "zip":
        raise _refusal(found, "it is not a zip archive of arrays")
    members = archive.check(found, one_folder=False, compressed=True).members
    if sum(member.size for member in members.values()) > LARGEST:
        raise _refusal(found, f"its arrays unpack to more than {LARGEST >> 30} GiB")
    with zipfile.ZipFile(found) as opened:
        return {name.removesuffix(".npy"): _array(opened, name, member.size, found) for name, member in members.items()}


def _array(opened: zipfile.ZipFile, name: str, size: int, path: Path) -> numpy.ndarray[Any, Any]:
    try:
        with opened.open(name) as member:
            raw = member.read(size + 1)
        version = numpy.lib.format.read_magic(io.BytesIO(raw))
        header = io.BytesIO(raw)
        header.seek(8)
        reader = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
        shape, _, dtype = reader(header)
        if dtype.hasobject or dtype.name not in TYPES or math.prod(shape) * dtype.itemsize != size - header.tell():
            raise _refusal(
                path, f"{name} is {dtype} of shape {shape}, not {size - header.tell()} bytes of numbers that torch has"
            )
        loaded = numpy.load(io.BytesIO(raw), allow_pickle=False)
        return loaded.astype(dtype.newbyteorder("="), copy=False)  # type: ignore[no-any-return]
    except InputFileError:
        raise
    except Exception as error:
        # numpy parses the header as Python, so that a malicious one may raise anything.
        raise _refusal(path, f"{name}: {str(error)[:160]}") from error


def _refusal(path: Path, why: str) -> InputFileError:
    return InputFileError(
        "the inputs cannot be read",
        code="CB-INPUT-03",
        where=str(path),
        why=why,
        do="write them with numpy.savez(file, name=array), named after the parameters of forward",
    )
