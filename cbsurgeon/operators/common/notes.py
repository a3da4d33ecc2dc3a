"""Notes in a state dict that record the operators that its weights were trained with.

``state_dict()`` keeps a dictionary beside the tensors, ``_metadata``, which ``torch.save`` writes and ``torch.load``
restores, with ``weights_only`` too. Every operator writes itself and the recipe that inserted it there, as text. No key
of the state dict changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

RECIPES = "cbsurgeon.recipes"
"""Key in ``_metadata``: digest → recipe document, as JSON text."""

NOTE = "cbsurgeon"
"""Key in an operator's own entry of ``_metadata``: the digest of its recipe."""


def digest(essence: Mapping[str, Any]) -> str:
    """Return a short digest of JSON values."""
    text = json.dumps(essence, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(state: Any, prefix: str, key: str, document: Mapping[str, Any]) -> None:
    """Write a note about an operator into a state dict.

    Args:
        state: the state dict; without ``_metadata`` (a plain ``dict``) nothing is written.
        prefix: prefix of the operator's keys, with the dot at its end.
        key: digest of the recipe.
        document: the recipe.
    """
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        return
    metadata.setdefault(prefix[:-1], {})[NOTE] = key
    recipes = metadata.setdefault(RECIPES, {})
    if key not in recipes:
        recipes[key] = json.dumps(document, sort_keys=True, separators=(",", ":"))


def difference(metadata: Mapping[str, Any], key: str | None) -> str:
    """Return why weights do not belong to an operator; empty if they do, or if the state dict has no note.

    Args:
        metadata: the operator's entry in ``_metadata``.
        key: digest of the recipe that inserted the operator.
    """
    noted = metadata.get(NOTE)
    if noted is None or key is None or noted == key:
        return ""
    return (
        "the weights were trained with another recipe (another operator, other options or other sites); load them with "
        "cbs.load(file), or insert the recipe they were trained with. To use them anyway: "
        "load_state_dict(dict(state))"
    )
