"""Read safetensors: check the header by stricter rules than the library's, then memory-map the tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.errors import InputFileError, missing
from cbsurgeon.escapes import encodable
from cbsurgeon.models.files import metadata
from cbsurgeon.models.files import reading as files

LARGEST_HEADER = 16 << 20
"""Largest size in bytes of a header; enough for a hundred thousand tensors."""
LARGEST_INDEX = 16 << 20
"""Largest size in bytes of a shard index."""
MOST_SHARDS = 1000
MOST_AXES = 32

_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_WIDTHS |= {"U64": 8, "U32": 4, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}\.safetensors")


@dataclass(frozen=True)
class Contents:
    """The tensors of a safetensors file (or of all its shards) and the text metadata of its header."""

    tensors: dict[str, torch.Tensor]
    metadata: Mapping[str, str]


def read(path: Path) -> Contents:
    """Return a file's tensors, memory-mapped: nothing is read until a tensor is used.

    Raises:
        InputFileError: the header breaks a rule (``CB-ST-*``), the file is cut off (``CB-LOAD-07``), or it is one shard
            of several (``CB-ST-06``).
    """
    shard = _SHARD.fullmatch(path.name)
    if shard:
        index = path.with_name(f"{shard[1]}.safetensors.index.json")
        raise InputFileError(
            "the file is one shard of several",
            code="CB-ST-06",
            where=str(path),
            why="it holds a part of the weights only",
            do=f"name the index instead: {index}",
        )
    header = read_header(path)
    return Contents(mapped(path, list(header.tensors)), header.metadata)


def read_index(path: Path) -> Contents:
    """Return the memory-mapped tensors of all shards of an index; every key must be in exactly the shard it names.

    Raises:
        InputFileError: the index is not safe or not complete (``CB-ST-07``), or a shard is not (as :func:`read`).
    """
    placed, notes = _read_weight_map(path)
    shards: dict[str, list[str]] = {}
    for key, name in placed.items():
        shards.setdefault(name, []).append(key)
    if len(shards) > MOST_SHARDS:
        raise _bad_index(path, f"it names {len(shards)} files, at most {MOST_SHARDS} are read")
    tensors: dict[str, torch.Tensor] = {}
    for name, keys in shards.items():
        if not _PLAIN_NAME.fullmatch(name):
            raise _bad_index(path, f"{name[:80]!r} is not a plain file name in the same folder")
        shard = files.readable(path.with_name(name))
        held = set(read_header(shard).tensors)
        if held != set(keys):
            odd = sorted(held.symmetric_difference(keys))
            raise _bad_index(path, f"{name} and the index disagree on {len(odd)} keys, first {odd[0][:80]!r}")
        tensors |= mapped(shard, keys)
    return Contents({key: tensors[key] for key in placed}, notes)


@dataclass(frozen=True)
class Header:
    """A safetensors header that passed the checks: shape and dtype by key, and the text metadata."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check a header.

    The library accepts duplicate keys (the last one counts, for other readers the first). They are refused here, as are
    headers larger than :data:`LARGEST_HEADER`, overlaps, gaps, and sizes that do not match the shape.

    Raises:
        InputFileError: it is too long or not JSON (``CB-ST-01``), has a key twice (``CB-ST-02``), a malformed entry
            (``CB-ST-03``), offsets that overlap or leave gaps (``CB-ST-04``) or an unknown dtype (``CB-ST-05``), or is
            cut off (``CB-LOAD-07``).
    """
    total = files.size(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > total - 8:
            if total >= 8 and length > LARGEST_HEADER:
                raise _bad_header(path, "CB-ST-01", f"its header claims {length} bytes, the file has {total}")
            raise files.truncated(path, f"its header claims {length} bytes, the file has {total}")
        if length > LARGEST_HEADER:
            raise _bad_header(path, "CB-ST-01", f"its header has {length} bytes, at most {LARGEST_HEADER} are read")
        raw = file.read(length)
    document = _parse(path, raw)
    notes = document.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise _bad_header(path, "CB-ST-03", "its __metadata__ is not an object of texts")
    spans, tensors = [], {}
    for key, entry in document.items():
        dtype, shape, begin, end = _entry(path, key, entry)
        tensors[key] = (dtype, shape)
        spans.append((begin, end, key))
    _check_spans(path, spans, total - 8 - length)
    return Header(tensors, notes)


class _Twice(ValueError):
    """A key appears twice in an object."""


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except _Twice as error:
        raise _bad_header(path, "CB-ST-02", str(error)) from error
    except RecursionError as error:
        raise _bad_header(path, "CB-ST-01", "its header is nested too deep") from error
    except (ValueError, UnicodeError) as error:
        raise _bad_header(path, "CB-ST-01", f"its header is not JSON: {str(error)[:120]}") from error
    if not isinstance(document, dict):
        raise _bad_header(path, "CB-ST-01", "its header is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(f"the key {key[:80]!r} appears twice in its header; readers could use different entries")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _entry(path: Path, key: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad_header(path, "CB-ST-03", f"the entry of {key[:80]!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(shape, list) and len(shape) <= MOST_AXES and all(_natural(extent) for extent in shape)):
        raise _bad_header(path, "CB-ST-03", f"the shape of {key[:80]!r} is not a short list of natural numbers")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(_natural(offset) for offset in offsets)):
        raise _bad_header(path, "CB-ST-03", f"the offsets of {key[:80]!r} are not two natural numbers")
    width = _WIDTHS.get(dtype) if isinstance(dtype, str) else None
    if width is None:
        raise _bad_header(
            path, "CB-ST-05", f"{key[:80]!r} has the dtype {str(dtype)[:40]!r}, not one of {', '.join(_WIDTHS)}"
        )
    begin, end = offsets
    if math.prod(shape) * width != end - begin:
        why = f"{key[:80]!r} is {shape} of {dtype}, but has {end - begin} bytes"
        raise _bad_header(path, "CB-ST-04", why)
    return dtype, tuple(shape), begin, end


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _check_spans(path: Path, spans: list[tuple[int, int, str]], room: int) -> None:
    """Check that the tensors fill the data exactly: no overlap, no gap, nothing left over."""
    reached = 0
    for begin, end, key in sorted(spans):
        if begin != reached:
            kind = "overlaps another tensor" if begin < reached else "leaves a hole before it"
            raise _bad_header(path, "CB-ST-04", f"{key[:80]!r} {kind} (it begins at {begin}, not at {reached})")
        reached = end
    if reached > room:
        raise files.truncated(path, f"its tensors need {reached} bytes, the file has {room}")
    if reached < room:
        raise _bad_header(path, "CB-ST-04", f"{room - reached} bytes follow its last tensor")


def mapped(path: Path, keys: list[str]) -> dict[str, torch.Tensor]:
    """Return tensors of a file whose header was checked before, in a new memory mapping.

    Raises:
        InputFileError: the library refuses it (``CB-ST-03``).
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing("safetensors", "all", "a .safetensors file") from error
    if encodable(str(path)) != str(path):
        raise InputFileError(
            "the safetensors library cannot open a file whose name is not UTF-8",
            code="CB-ST-03",
            where=str(path),
            why="its path contains bytes that are not UTF-8",
            do="give the file and its folders names in UTF-8",
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            return {key: opened.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise _bad_header(path, "CB-ST-03", f"the safetensors library refuses it: {str(error)[:160]}") from error


def _read_weight_map(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    if files.size(path) > LARGEST_INDEX:
        raise _bad_index(path, f"it has more than {LARGEST_INDEX} bytes")
    try:
        document = metadata.parse_json(path.read_bytes(), str(path), LARGEST_INDEX)
    except InputFileError as error:
        raise _bad_index(path, error.why) from error
    placed = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise _bad_index(path, "it has no weight_map from keys to file names")
    notes = document.get("metadata", {})
    notes = notes if isinstance(notes, dict) else {}
    return placed, {key: value for key, value in notes.items() if isinstance(value, str)}


def _bad_header(path: Path, code: str, why: str) -> InputFileError:
    return InputFileError(
        "the safetensors file is not safe to read",
        code=code,
        where=str(path),
        why=why,
        do="download it again, or write it again with the safetensors library",
    )


def _bad_index(path: Path, why: str) -> InputFileError:
    return InputFileError(
        "the index of the sharded checkpoint is not usable",
        code="CB-ST-07",
        where=str(path),
        why=why,
        do="keep the index and all its shards, as they were written, in one folder",
    )
