"""Recall and precision over many models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]


def summary(models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return sums per group and over all: models, expected, found, missed and extra; recall and precision."""
    sums: dict[str, dict[str, Any]] = {}
    for result in models.values():
        for group in (result["group"], "all"):
            row = sums.setdefault(group, dict.fromkeys(("models", "failed", "expected", "found", "missed", "extra"), 0))
            row["models"] += 1
            row["failed"] += bool(result.get("error"))
            row["expected"] += result["expected"]
            row["found"] += result["found"]
            row["missed"] += len(result["missed"])
            row["extra"] += len(result["extra"])
    for row in sums.values():
        hits = row["found"] - row["extra"]
        row["recall"] = hits / row["expected"] if row["expected"] else None
        row["precision"] = hits / row["found"] if row["found"] else None
    return sums


def good(result: Result) -> bool:
    """Return whether nothing was missed, nothing extra was found, and nothing failed."""
    return not (result["missed"] or result["extra"] or result.get("error"))


def rates(row: Mapping[str, Any]) -> str:
    """Recall and precision as text; empty where they are not defined."""
    return "  ".join(f"{rate} {row[rate]:.3f}" for rate in ("recall", "precision") if row[rate] is not None)
