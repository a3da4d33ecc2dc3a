"""Importing torchmetrics when a metric needs it."""

from __future__ import annotations

from typing import Any

from cbsurgeon.errors import missing


def torchmetrics() -> Any:
    """Import the torchmetrics package.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import torchmetrics
    except ImportError as error:
        raise missing("torchmetrics", "eval", "evaluating a model") from error
    return torchmetrics
