"""``verify``, and opening the two models or files of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cbsurgeon.checks.parity.comparison import verify
from cbsurgeon.checks.parity.result import Verification
from cbsurgeon.models import Model
from cbsurgeon.options import Loading, documented, resolve
from cbsurgeon.report import notebook
from cbsurgeon.verbs.editing import load
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

__all__ = ["Side", "open_side", "verify"]

notebook.install(Verification)

Side = Model | str | Path

FILES = (".onnx", *ENGINE_SUFFIXES)
"""Suffixes of files that are opened by a runtime instead of being loaded as a model."""


@documented(Loading)
def open_side(reference: str, loading: Loading | None = None, /, **keywords: Any) -> Side:
    """Return an exported file as a path, and load any other reference as a model, for a comparison.

    Args:
        reference: a file or a reference.
        loading: how both models are loaded; or its fields as keywords.
    """
    if Path(reference).suffix.lower() in FILES:
        return Path(reference)
    return load(reference, resolve(Loading, loading, keywords, "open_side").for_side(reference))
