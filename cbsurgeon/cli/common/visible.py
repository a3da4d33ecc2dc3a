"""Making text from files and models safe for a terminal.

A name can contain characters that a terminal interprets: escape sequences and C1 bytes that move the cursor or change
the title, and bidirectional overrides that change the order in which text is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cbsurgeon.escapes import escape

ACTED_ON = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, delete, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of direction
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff]"  # lone surrogates, which no encoding can write
)


def visible(text: str) -> str:
    """Replace every character that a terminal interprets by an escape such as ``\\x1b`` or ``\\u202e``."""
    return ACTED_ON.sub(lambda found: escape(ord(found[0])), text)


def visible_in(value: Any) -> Any:
    """Apply :func:`visible` to every text in a JSON value, including keys."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): visible_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible_in(item) for item in value]
    return value
