"""The keywords of ``timm.create_model("cbsurgeon", of=..., ...)``, as timm's scripts save them in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cbsurgeon.options import Choice, fields_of

NAME = "cbsurgeon"
"""Name under which the edited models are registered with timm."""

OF, RECIPE, OPTION = "of", "recipe", "op_"
"""Keywords for the architecture and for the file of a recipe; prefix of an operator's options."""


def architecture(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that belong to the architecture."""
    return {key: value for key, value in keywords.items() if key not in _ours() and not key.startswith(OPTION)}


def choice(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of :class:`cbsurgeon.Choice` among the keywords.

    timm parses values as Python literals if possible, so that ``layers=0,2`` is a tuple of numbers here.
    """
    chosen = {key: value for key, value in keywords.items() if key in fields_of(Choice)}
    for name in ("layers", "exclude"):
        if name in chosen:
            chosen[name] = _text(chosen[name])
    if isinstance(chosen.get("kinds"), str):
        chosen["kinds"] = tuple(chosen["kinds"].split(","))
    options = {key.removeprefix(OPTION): value for key, value in keywords.items() if key.startswith(OPTION)}
    return {**chosen, "options": options} if options else chosen


def _ours() -> set[str]:
    return {OF, RECIPE, *fields_of(Choice)}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
