"""``load``: any reference → a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbsurgeon.models.builders import build
from cbsurgeon.models.model import Model
from cbsurgeon.models.reference import Reference, parse


def load(
    reference: str,
    *,
    arch: str | None = None,
    input: str | None = None,
    inputs: Path | None = None,
    trust: bool = False,
    batch: int = 2,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Load a model from a reference."""
    found = parse(reference)
    if isinstance(found, Reference):
        return build(found, options=options, input=input, inputs=inputs, batch=batch)
    raise NotImplementedError
