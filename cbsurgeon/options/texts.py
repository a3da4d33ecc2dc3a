"""Parsers of option values: from the text typed on the command line to the value of the field.

Each function returns the value, or raises :class:`BadText` with the form that the flag takes; the command line adds the
flag's name.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

LARGEST = (1 << 63) - 1
"""Largest whole number that a flag takes: the largest int64."""

LONGEST = 366 * 86400
"""Longest time in seconds that a flag takes, because the operating system cannot wait arbitrarily long."""


class BadText(ValueError):
    """The text does not have the form that the flag takes.

    Attributes:
        takes: the form, as the end of a sentence that starts with the flag's name: "takes a time".
        example: a value that works.
    """

    def __init__(self, takes: str, example: str) -> None:
        super().__init__(takes)
        self.takes, self.example = takes, example


def numbers(text: str, least: int = 1) -> tuple[int, ...]:
    """``1,2,7`` as integers, each at least ``least`` and an int64."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < least or max(found) > LARGEST:
        raise BadText(f"takes whole numbers from {least} to {LARGEST}, separated by commas", "1,2,7")
    return found


def profile(text: str) -> int | tuple[int, int, int]:
    """``8`` as one batch size, ``1,8,64`` as the smallest, most common and largest."""
    try:
        found = numbers(text)
    except BadText:
        found = ()
    if len(found) == 1:
        return found[0]
    if len(found) != 3 or list(found) != sorted(found):
        raise BadText(
            "takes one size of at least 1, or three in ascending order; without it, any batch size works", "1,8,64"
        )
    return found[0], found[1], found[2]


def words(text: str) -> tuple[str, ...]:
    """``a,b`` as words."""
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise BadText("takes words separated by commas", "mlp,token-mlp")
    return found


def selectors(texts: tuple[str, ...]) -> tuple[str, ...]:
    """``all,upper`` as two selectors of layers; a text with a number between commas (``0,2,4``) is one."""
    found: list[str] = []
    for text in texts:
        parts = words(text)
        found += [text] if any(part[0].isdecimal() for part in parts) and len(parts) > 1 else parts
    return tuple(found)


def exclusions(text: str) -> tuple[int | str, ...]:
    """``7,11,taps`` as block indices and the word ``taps``."""
    found: list[int | str] = []
    for word in (word.strip() for word in text.split(",")):
        if word != "taps" and not word.isdecimal():
            raise BadText("takes block indices, and the word taps", "7,11,taps")
        found.append(word if word == "taps" else int(word))
    return tuple(found)


def axes(text: str) -> int | dict[str, int]:
    """``1`` as one axis, ``x=1,mask=0`` as axes by name."""
    named = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if text.strip().isdecimal():
        return int(text)
    if not all(name and axis.isdecimal() for name, axis in named.items()):
        raise BadText("takes an axis from 0 on, or axes by the name of the input", "x=1,mask=0")
    return {name: int(axis) for name, axis in named.items()}


def pairs(texts: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a mapping; a value that is JSON is read as JSON, anything else is text."""
    found: dict[str, Any] = {}
    for word in texts:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadText("takes KEY=VALUE", "num_classes=10")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def edges(text: str) -> tuple[int, int]:
    """``224`` as height and width, ``224x320`` as height x width."""
    parts = text.split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise BadText("takes an edge in pixels, or height x width", "224x320")
    return int(parts[0]), int(parts[-1])


def number(text: str) -> float:
    """``0.875`` or ``224``."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise BadText("takes a fraction such as 0.875, or pixels", "0.875")
    return found


def memory(text: str) -> int:
    """``16GB``, ``500MB`` or ``16GiB`` as bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", text.strip(), re.IGNORECASE)
    unit = (1024 if found[3] else 1000) ** ("KMGT".index(found[2].upper()) + 1) if found else 0
    if found is None or not 0 < float(found[1]) * unit <= LARGEST:
        raise BadText("takes a size in memory", "16GB")
    return int(float(found[1]) * unit)


def percent(text: str) -> float:
    """``0.1%`` as 0.001."""
    try:
        found = float(text.removesuffix("%")) / 100
    except ValueError:
        found = math.nan
    if not text.endswith("%") or not 0 <= found <= 1:
        raise BadText("takes a percentage", "0.1%")
    return found


def slowdown(text: str) -> float:
    """``1%`` as 0.01; it may exceed 100 %, and must be above zero."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if match is None or not 0 < float(match[1]) < math.inf:
        raise BadText("takes a percentage above zero", "1%")
    return float(match[1]) / 100


def duration(text: str) -> float:
    """``20s``, ``5m`` or ``1h`` as seconds; a plain number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    found = float(match[1]) * _SECONDS.get(match[2], 0) if match else 0.0
    if not 0 < found <= LONGEST:
        raise BadText("takes a time of at most a year", "60s")
    return found


def duration_or_zero(text: str) -> float:
    """The same, or zero."""
    return 0.0 if re.fullmatch(r"0+(\.0+)?\s*[a-z]*", text.strip()) else duration(text)


_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
