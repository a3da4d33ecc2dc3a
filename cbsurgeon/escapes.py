"""Escapes for text that UTF-8, JSON, a terminal or a page cannot show as it is, such as a name that is not UTF-8.

A name can contain characters that a terminal interprets: escape sequences and C1 bytes that move the cursor or change
the title. Bidirectional overrides change the order in which a terminal and a browser show text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")
_UNDECODED = range(0xDC80, 0xDD00)
"""The code points that Python uses for bytes of a file name that are not UTF-8."""


_ACTED_ON = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, delete, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of direction
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff]"  # lone surrogates, which no encoding can write
)


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


def visible(text: str) -> str:
    """Replace every character that a terminal interprets by an escape such as ``\\x1b`` or ``\\u202e``."""
    return _ACTED_ON.sub(lambda found: escape(ord(found[0])), text)


def visible_in(value: Any) -> Any:
    """Apply :func:`visible` to every text in a JSON value, including keys."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): visible_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible_in(item) for item in value]
    return value


def json_text(document: Any, *, ascii_only: bool = False) -> str:
    """Return a document as indented JSON for a terminal: characters that it interprets are JSON escapes.

    The values stay the same: a reader of the JSON gets every character back, except for lone surrogates.
    """
    text = json.dumps(valid_json(document), indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return _ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
