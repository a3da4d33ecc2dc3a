"""The metadata that cbsurgeon writes into ONNX files: reading and checking it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.files import strict_json
from cbsurgeon.surgery.recipe import Recipe

METADATA_KEY = "cbsurgeon"
METADATA_SCHEMA = "cbsurgeon.onnx/1"

LARGEST_RANK = 16
LARGEST_SIZE = 1 << 40
"""Limits on the number of axes and on any size: a file beyond them is damaged or malicious."""

LARGEST_COUNT = 1 << 48
"""Largest number of values of one tensor, for the same reason."""

LOWEST_INTEGER, LARGEST_INTEGER = -(1 << 63), (1 << 63) - 2
"""Range of an integer input: an int64, and one less so that the end of a range is one too."""

LARGEST_SIDE = 1 << 14
"""Largest height or width, in pixels, of an image that a file was exported with."""


def metadata_of(proto: Any, path: Path) -> dict[str, Any] | None:
    """Return the metadata as :func:`read_metadata` does, from a parsed model."""
    text = next((item.value for item in proto.metadata_props if item.key == METADATA_KEY), None)
    if text is None:
        return None
    try:
        document = strict_json.parse(text)
    except strict_json.NotStrictJSON as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(document, dict) or document.get("schema") != METADATA_SCHEMA:
        raise _damaged(path, f"its schema is not {METADATA_SCHEMA!r}")
    for name, fits in _MEMBERS.items():
        if name in document and not fits(document[name]):
            raise _damaged(path, f"{name} does not have the structure that exports write")
    try:
        recipes_of(document.get("recipes", []))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    return document


def recipes_of(value: Any) -> list[dict[str, Any]]:
    """Return the recipes in the metadata of an ONNX file or in an engine's manifest, after checking each of them.

    Raises:
        ValueError: one is not a recipe, or states a size that no tensor has.
    """
    if not isinstance(value, list):
        raise ValueError("recipes is not a list")
    try:
        found = [Recipe.from_dict(one) for one in value]
    except UsageError as error:
        raise ValueError(f"{error.what}: {error.why}") from error
    if any(
        not 0 < size <= LARGEST_SIZE for one in found for site in one.sites for size in (site.tokens, site.channels)
    ):
        raise ValueError(f"a recipe states a size below 1 or above {LARGEST_SIZE}")
    return [one.to_dict() for one in found]


def _is_range(value: Any) -> bool:
    whole = isinstance(value, list) and len(value) == 2 and all(type(end) is int for end in value)
    return whole and LOWEST_INTEGER <= value[0] <= value[1] <= LARGEST_INTEGER


def _is_sizes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(size, int) and 0 < size <= LARGEST_SIDE for size in value.values()
    )


_MEMBERS: Mapping[str, Callable[[Any], bool]] = {
    "provenance": lambda value: isinstance(value, dict),
    "sites": lambda value: isinstance(value, list) and all(isinstance(site, dict) for site in value),
    "batch_inputs": lambda value: (
        isinstance(value, dict) and all(isinstance(axis, int) and 0 <= axis < LARGEST_RANK for axis in value.values())
    ),
    "open_sizes": _is_sizes,
    "integer_inputs": lambda value: isinstance(value, dict) and all(map(_is_range, value.values())),
}
"""The check that each field of the metadata must pass before it is used."""


def _damaged(path: Path, why: str) -> InputFileError:
    return InputFileError(
        "the file's cbsurgeon metadata cannot be read",
        code="CB-ONNX-03",
        where=f"{path}, metadata property {METADATA_KEY!r}",
        why=why,
        do="export the model again with this version",
    )


def module_path(metadata: Mapping[str, str]) -> str:
    """Return the module path of an exported node, as torch.onnx recorded it; empty if it did not."""
    scopes = metadata.get("pkg.torch.onnx.name_scopes", "")
    paths = re.findall(r"['\"]([^'\"]*)['\"]", scopes)[:-1]
    return paths[-1] if paths else ""


def usual_sizes(proto: Any) -> dict[str, int]:
    """Return the size at export of each symbol, from the metadata of cbsurgeon if it can be read."""
    text = next((item.value for item in proto.metadata_props if item.key == METADATA_KEY), "{}")
    try:
        document = strict_json.parse(text)
    except strict_json.NotStrictJSON:
        return {}
    found = document.get("open_sizes") if isinstance(document, dict) else None
    return dict(found) if found and _is_sizes(found) else {}
