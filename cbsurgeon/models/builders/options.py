"""Check the options of a builder: JSON values that shape an architecture, and nothing that loads or runs something."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cbsurgeon.errors import UsageError
from cbsurgeon.models.reference import Reference

REFUSED = frozenset(
    {
        "auto_map",
        "cache_dir",
        "checkpoint_path",
        "name_or_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_model_name_or_path",
        "quantization_config",
        "trust_remote_code",
        "use_pretrained_backbone",
        "weights",
        "weights_backbone",
    }
)
"""Keyword arguments of the libraries that read files, download weights or run code."""

_LONGEST_REASON = 300


def checked(options: Mapping[str, Any], reference: Reference) -> dict[str, Any]:
    """Return a JSON copy of ``options``.

    Raises:
        UsageError: a value is not JSON, or a key would load weights or run code (``CB-REF-05``).
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(options), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            "the options are not JSON",
            code="CB-REF-05",
            where=str(reference),
            why=reason(error),
            do="pass numbers, strings, booleans, lists and objects: they are stored in the checkpoint",
        ) from error
    if reference.kind == "mod":
        return copy
    for key, value in _pairs(copy):
        code_from_hub = "implementation" in key and isinstance(value, str) and "/" in value
        if (key in REFUSED and value) or key.startswith("_") or code_from_hub:
            raise UsageError(
                f"the option {key!r} is refused",
                code="CB-REF-05",
                where=str(reference),
                why="an architecture is built from its shape alone; this option reads files, downloads or runs code",
                do="give the weights as a file: cbsurgeon inspect FILE --arch " + str(reference),
            )
    return copy


def reason(error: BaseException) -> str:
    """Return the type and first line of an exception from another library, short enough to print."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]}"


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending += item.values()
        elif isinstance(item, list):
            pending += item
