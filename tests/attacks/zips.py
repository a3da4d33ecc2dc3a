"""Zip archives written field by field, so that any field can have a wrong value."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Entry:
    """One member. ``None`` means the honest value."""

    name: str
    data: bytes = b""
    method: int = 0
    flags: int = 0x0800
    size: int | None = None
    packed: int | None = None
    local_name: str | None = None
    local_method: int | None = None
    local_size: int | None = None
    header_at: int | None = None
    payload: bytes = field(init=False)

    def __post_init__(self) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        self.payload = packer.compress(self.data) + packer.flush() if self.method == 8 else self.data


def write(
    path: Path, entries: list[Entry], *, before: bytes = b"", after: bytes = b"", count: int | None = None
) -> None:
    """Write an archive; ``before`` and ``after`` surround it, ``count`` is what its end record claims."""
    body, directory = bytearray(before), bytearray()
    for entry in entries:
        at = len(body) if entry.header_at is None else entry.header_at
        crc = zlib.crc32(entry.data)
        packed = len(entry.payload) if entry.packed is None else entry.packed
        size = len(entry.data) if entry.size is None else entry.size
        if entry.header_at is None:
            local = (entry.name if entry.local_name is None else entry.local_name).encode()
            method = entry.method if entry.local_method is None else entry.local_method
            said = size if entry.local_size is None else entry.local_size
            body += struct.pack(
                "<4sHHHHHIIIHH", b"PK\3\4", 20, entry.flags, method, 0, 0, crc, clip(packed), clip(said), len(local), 0
            )
            body += local + entry.payload
        name = entry.name.encode()
        extra = b""
        if max(size, packed) >= 0xFFFFFFFF:
            extra = struct.pack("<HHQQ", 1, 16, size, packed)
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2",
            20,
            20,
            entry.flags,
            entry.method,
            0,
            0,
            crc,
            0xFFFFFFFF if extra else packed,
            0xFFFFFFFF if extra else size,
            len(name),
            len(extra),
            0,
            0,
            0,
            0,
            at,
        )
        directory += name + extra
    said = len(entries) if count is None else count
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, said, said, len(directory), len(body), 0)
    path.write_bytes(bytes(body) + bytes(directory) + end + after)


def clip(number: int) -> int:
    return min(number, 0xFFFFFFFF)


def checkpoint(path: Path, program: bytes, *tensors: bytes, **surroundings: bytes) -> None:
    """An archive as ``torch.save`` writes it, around any pickle program."""
    members = [Entry("m/data.pkl", program), Entry("m/byteorder", b"little"), Entry("m/version", b"3\n")]
    write(path, members + [Entry(f"m/data/{at}", data) for at, data in enumerate(tensors)], **surroundings)
