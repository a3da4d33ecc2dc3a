"""Pickle programs assembled by hand; nothing here is ever run."""

from __future__ import annotations

import struct

HEAD = b"\x80\x02"
LEGACY = HEAD + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + HEAD + b"M\xe9\x03." + HEAD + b"}q\x00."
"""How a file of the old format begins: magic number, protocol 1001, and an empty description of the system."""


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def named(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def row(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + row(*arguments) + b"R"


def storage(elements: int, key: str = "0", legacy: bool = False, kind: str = "FloatStorage") -> bytes:
    view = (b"N",) if legacy else ()
    parts = (text("storage"), named("torch", kind), text(key), text("cpu"), number(elements), *view)
    return row(*parts) + b"Q"


def tensor(elements: int, shape: list[int], stride: list[int], offset: int = 0, legacy: bool = False) -> bytes:
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage(elements, legacy=legacy),
        number(offset),
        row(*map(number, shape)),
        row(*map(number, stride)),
        b"\x89",
        call("collections", "OrderedDict"),
    )


def state(*pairs: tuple[bytes, bytes]) -> bytes:
    return HEAD + b"}(" + b"".join(key + value for key, value in pairs) + b"u."
