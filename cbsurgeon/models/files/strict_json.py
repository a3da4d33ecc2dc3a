"""Strict JSON: read it from untrusted files with a limit of size and depth, and write values that JSON has."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from cbsurgeon.escapes import valid_json

LARGEST = 8 << 20
"""Longest text read, in characters."""

DEEPEST = 32
"""Deepest nesting read."""

DIGITS = 40
"""Most digits of a whole number: more than any size or count has."""


class NotStrictJSON(ValueError):
    """The text is not strict JSON; the message says why."""


def parse(text: str | bytes, *, largest: int = LARGEST, deepest: int = DEEPEST) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text; bytes are UTF-8.
        largest: most characters read.
        deepest: most levels of objects and arrays.

    Raises:
        NotStrictJSON: it is longer or deeper than that, is not JSON, has a key twice, a number that is not finite or
            has more than 40 digits, or text that UTF-8 cannot encode.
    """
    if len(text) > largest:
        raise NotStrictJSON(f"it has {len(text)} characters, at most {largest} are read")
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=_whole
        )
    except RecursionError:
        raise NotStrictJSON(f"it is nested deeper than {deepest}") from None
    except (ValueError, UnicodeError) as error:
        raise NotStrictJSON(str(error)[:200]) from error
    _check(document, deepest)
    return document


def load(path: Path, *, largest: int = LARGEST, deepest: int = DEEPEST) -> Any:
    """Return the value of a JSON file. No more than its largest size is read, also of a device or a pipe.

    Raises:
        OSError: the file cannot be read.
        NotStrictJSON: as :func:`parse`.
    """
    return parse(head(path, largest + 1), largest=largest, deepest=deepest)


def head(path: Path, most: int) -> bytes:
    """Return the first bytes of a file, at most ``most``. A pipe that nothing writes into is read as empty.

    Raises:
        OSError: the file cannot be read.
    """

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for a writer

    with open(path, "rb", opener=at_once) as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(file.fileno(), True)
        return file.read(most)


def dumps(document: Any) -> str:
    """Return a document as indented JSON that :func:`parse` reads; what JSON cannot hold is replaced."""
    return json.dumps(valid_json(document), indent=2, ensure_ascii=False, allow_nan=False)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1) if len(names) < 1000 else "a key"
        raise ValueError(f"the key {twice[:80]!r} appears twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text)} digits, at most {DIGITS} are read")
    return int(text)


def _check(document: Any, deepest: int) -> None:
    layer = [document]
    for _ in range(deepest + 1):
        inner: list[Any] = []
        for value in layer:
            if isinstance(value, dict):
                inner += value.values()
                inner += value.keys()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                _encodable(value)
        if not inner:
            return
        layer = inner
    if any(isinstance(value, dict | list) for value in layer):
        raise NotStrictJSON(f"it is nested deeper than {deepest}")


def _encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotStrictJSON(f"a text holds a lone surrogate at character {error.start}") from None
