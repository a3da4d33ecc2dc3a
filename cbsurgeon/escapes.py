"""Escapes for text and numbers that UTF-8 and JSON cannot hold, such as a file name that is not UTF-8."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")
_UNDECODED = range(0xDC80, 0xDD00)
"""The code points that Python uses for bytes of a file name that are not UTF-8."""


def valid_json(value: Any) -> Any:
    """Make a value valid for JSON and UTF-8: non-finite numbers become null, lone surrogates become escapes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, Mapping):
        return {encodable(str(key)): valid_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [valid_json(item) for item in value]
    return value


def encodable(text: str) -> str:
    """Replace lone surrogates, which no encoding can write, by escapes such as ``\\xff``."""
    return _SURROGATES.sub(lambda found: escape(ord(found[0])), text)


def escape(number: int) -> str:
    """Return a character as an escape; a byte of a file name that is not UTF-8 as that byte."""
    if number in _UNDECODED:
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
