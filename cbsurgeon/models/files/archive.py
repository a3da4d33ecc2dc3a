"""Check zip archives by strict rules before torch or numpy read them.

The libraries that read them next (miniz in torch, ``zipfile`` in numpy) accept archives that different readers
interpret differently, or that unpack to far more than their size. Here every other archive is refused: each member must
be stored (not compressed), have a unique name, be described in the same way by its local header and the central
directory, be in one folder, and not overlap; and no other bytes may be before, between or after the members.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import reading as files

MOST_MEMBERS = 100_000
"""Largest number of members of an archive; each tensor is one member."""
LARGEST_DIRECTORY = 32 << 20
"""Largest size in bytes of a central directory."""

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_DESCRIPTOR_AND_UTF8 = 0x0808
_UNKNOWN32 = (0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Member:
    """One stored file of an archive: its name, and the position of its bytes in the archive."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Archive:
    """An archive that passed the checks.

    Attributes:
        path: the file.
        members: by name, without the top folder's name.
    """

    path: Path
    members: dict[str, Member]

    def read(self, name: str, largest: int) -> bytes:
        """Return the bytes of a small member.

        Raises:
            InputFileError: it is larger than ``largest`` (``CB-ZIP-08``).
        """
        member = self.members[name]
        if member.size > largest:
            raise _refusal(self.path, "CB-ZIP-08", f"{name!r} has {member.size} bytes, at most {largest} are read")
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def names(path: Path) -> list[str]:
    """Return the names in the central directory, unchecked but limited in number, to recognise the kind of archive.

    Raises:
        InputFileError: the directory cannot be read or is too large (``CB-LOAD-07``, ``CB-ZIP-08``).
    """
    return [info.orig_filename for info in _directory(path)]


def check(path: Path, *, one_folder: bool = True, compressed: bool = False) -> Archive:
    """Check an archive and return its members.

    Args:
        path: the archive.
        one_folder: every member must lie in one top folder, as ``torch.save`` writes; its name is dropped.
        compressed: allow deflated members (the caller bounds what it unpacks).

    Raises:
        InputFileError: damaged (``CB-LOAD-07``); compressed (``CB-ZIP-01``), duplicate (``CB-ZIP-02``) or encrypted
            (``CB-ZIP-03``) members; headers that disagree (``CB-ZIP-04``); members larger than the archive
            (``CB-ZIP-05``) or overlapping (``CB-ZIP-06``); names that are not plain relative paths (``CB-ZIP-07``); too
            many (``CB-ZIP-08``); hidden bytes before or after (``CB-ZIP-09``).
    """
    infos, total = _directory(path), files.size(path)
    seen: set[str] = set()
    for info in infos:
        _check_flags(path, info, compressed)
        _check_name(path, info.orig_filename)
        if info.orig_filename in seen:
            raise _refusal(path, "CB-ZIP-02", f"the member {info.orig_filename[:80]!r} appears twice")
        seen.add(info.orig_filename)
    if sum(info.compress_size for info in infos) > total:
        raise _refusal(path, "CB-ZIP-05", f"its members claim more bytes than the {total} of the archive")
    members = _locate(path, infos)
    if one_folder:
        tops = {name.partition("/")[0] for name in seen}
        if len(tops) != 1 or not all("/" in name for name in seen):
            raise _refusal(path, "CB-ZIP-07", f"its members lie in {len(tops)} top folders, not in one")
        members = {name.partition("/")[2]: member for name, member in members.items()}
    return Archive(path, members)


def _directory(path: Path) -> list[zipfile.ZipInfo]:
    _check_end(path)
    try:
        with zipfile.ZipFile(path) as opened:
            return opened.infolist()
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        struct.error,
        OSError,
        OverflowError,
        EOFError,
    ) as error:
        raise files.truncated(path, f"its zip directory cannot be read: {error}") from error


def _check_end(path: Path) -> None:
    """Check that the end record is the last thing in the file, and that the directory is right before it."""
    total = files.size(path)
    tail_size = _END.size + _LOCATOR.size + _END64.size
    with path.open("rb") as file:
        file.seek(max(0, total - tail_size))
        tail = file.read(tail_size)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise files.truncated(path, "its zip directory is missing: the file is cut off, or has bytes after its end")
    _, disk, first, _, count, size, offset, comment = _END.unpack(tail[-_END.size :])
    end = total - _END.size
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator[:4] == b"PK\x06\x07" and len(tail) == tail_size:
        signature, _, _, _, _, _, _, count, size, offset = _END64.unpack(tail[: _END64.size])
        end = total - tail_size
        if signature != b"PK\x06\x06" or _LOCATOR.unpack(locator)[2] != end:
            raise files.truncated(path, "its 64-bit zip end record is not where it should be")
    if disk or first or comment:
        raise _refusal(path, "CB-ZIP-09", "it is a part of a split archive, or carries a comment")
    if count > MOST_MEMBERS or size > LARGEST_DIRECTORY:
        raise _refusal(path, "CB-ZIP-08", f"it has {count} members, at most {MOST_MEMBERS} are read")
    if offset + size != end:
        raise _refusal(path, "CB-ZIP-09", "its directory does not lie right before its end: there are hidden bytes")


def _check_flags(path: Path, info: zipfile.ZipInfo, compressed: bool) -> None:
    name = info.orig_filename[:80]
    if info.flag_bits & 0x2041:
        raise _refusal(path, "CB-ZIP-03", f"the member {name!r} is encrypted")
    deflated = compressed and info.compress_type == zipfile.ZIP_DEFLATED
    if not deflated and (info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size):
        raise _refusal(
            path,
            "CB-ZIP-01",
            f"the member {name!r} is compressed ({info.compress_size} bytes claim to become {info.file_size})",
            do="unpack it and write the tensors as safetensors",
        )
    if info.flag_bits & ~_DESCRIPTOR_AND_UTF8 and not deflated:
        raise _refusal(path, "CB-ZIP-04", f"the member {name!r} has unknown flags {info.flag_bits:#x}")


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    plain = name and "\\" not in name and ":" not in name and all(ord(letter) >= 32 for letter in name)
    if not plain or name.startswith("/") or ".." in parts or name.endswith("/") or "//" in name:
        raise _refusal(path, "CB-ZIP-07", f"the member name {name[:80]!r} is not a plain relative path")


def _locate(path: Path, infos: list[zipfile.ZipInfo]) -> dict[str, Member]:
    """Read every local header, compare it with the directory, and check that members do not overlap."""
    members: dict[str, Member] = {}
    end = 0
    with path.open("rb") as file:
        for info in sorted(infos, key=lambda each: each.header_offset):
            if info.header_offset < end:
                raise _refusal(path, "CB-ZIP-06", f"the member {info.orig_filename[:80]!r} overlaps another")
            if end == 0 and info.header_offset != 0:
                raise _refusal(path, "CB-ZIP-09", "there are hidden bytes before its first member")
            file.seek(info.header_offset)
            raw = file.read(_LOCAL.size)
            if len(raw) != _LOCAL.size:
                raise files.truncated(path, f"the member {info.orig_filename[:80]!r} lies behind its end")
            header = _LOCAL.unpack(raw)
            name = file.read(header[9])
            _compare(path, info, header, name)
            start = info.header_offset + _LOCAL.size + header[9] + header[10]
            end = start + info.compress_size
            members[info.orig_filename] = Member(info.orig_filename, start, info.file_size)
    if end > files.size(path):
        raise files.truncated(path, "its last member is cut off")
    return members


def _compare(path: Path, info: zipfile.ZipInfo, header: tuple[bytes | int, ...], name: bytes) -> None:
    signature, _, flags, method, _, _, crc, packed, unpacked, _, _ = header
    try:
        spelled = name.decode("utf-8" if info.flag_bits & 0x800 else "cp437")
    except UnicodeDecodeError:
        spelled = ""
    same = signature == b"PK\x03\x04" and flags == info.flag_bits and method == info.compress_type
    same = same and spelled == info.orig_filename
    same = same and (packed in _UNKNOWN32 or packed == info.compress_size)
    same = same and (unpacked in _UNKNOWN32 or unpacked == info.file_size)
    if not same or (crc and crc != info.CRC):
        raise _refusal(
            path, "CB-ZIP-04", f"the member {info.orig_filename[:80]!r} is described differently in its own header"
        )


def _refusal(path: Path, code: str, why: str, do: str = "") -> InputFileError:
    return InputFileError(
        "the archive is not safe to read",
        code=code,
        where=str(path),
        why=why,
        do=do or "write it again with torch.save, or as safetensors, from a source you know",
    )
