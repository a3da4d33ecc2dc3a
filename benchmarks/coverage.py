"""Recall and precision of the blocks that inspection finds, for every model of the zoo.

    python benchmarks/coverage.py                    the whole sweep: a table, and results/coverage.json
    python benchmarks/coverage.py --only timm/swin   those models again; the other results stay
    python benchmarks/coverage.py --missing          only models without a result
    python benchmarks/coverage.py --truth            write coverage_truth.json anew (reviewed data: look at the diff)

The exit code is 1 if a block is missed, an extra block is found, or a model cannot be captured.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and this file would be imported instead of package `coverage`.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.zoo import entries  # noqa: E402
from benchmarks.zoo.measure import measure  # noqa: E402
from benchmarks.zoo.scores import good, rates, summary  # noqa: E402
from benchmarks.zoo.sweeping import Sweep, installed, parser  # noqa: E402

TRUTH = ROOT / "benchmarks" / "coverage_truth.json"
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
PACKAGES = ("torch", "timm", "torchvision", "transformers")


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep, or write the ground truth; return the exit code."""
    accepted = parser((__doc__ or "").splitlines()[0], RESULTS)
    accepted.add_argument("--truth", action="store_true", help="write the expected blocks; do not compare")
    options = accepted.parse_args(arguments)
    if options.truth:
        return _write_truth(options.only)
    expected = read_truth()
    return Sweep(
        script=Path(__file__),
        schema="cbsurgeon.coverage/1",
        results=RESULTS,
        entries=entries,
        measure=lambda entry: measure(entry, expected[entry.name]),
        lost=lambda entry, result: _lost(result, expected[entry.name]),
        good=good,
        summary=summary,
        table=table,
        packages=PACKAGES,
    ).run(options)


def read_truth() -> dict[str, Any]:
    """Expected blocks by name of the model."""
    models: dict[str, Any] = json.loads(TRUTH.read_text())["models"]
    return models


def _write_truth(only: str) -> int:
    from benchmarks.zoo.truth import truth

    known = read_truth() if only else {}
    for entry in entries():
        if re.search(only, f"{entry.group} {entry.name}"):
            known[entry.name] = truth(entry)
            print(f"{len(known[entry.name]['blocks']):4} {entry.name}", file=sys.stderr)
    document = {"schema": "cbsurgeon.coverage-truth/1", "packages": installed(PACKAGES), "models": known}
    TRUTH.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    blocks = sum(len(model["blocks"]) for model in known.values())
    print(f"{TRUTH.name}: {blocks} blocks in {len(known)} models")
    return 0


def _lost(result: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a model whose worker process ended or timed out."""
    return {
        "group": expected["group"],
        "family": expected["family"],
        "expected": len(expected["blocks"]),
        "found": 0,
        "missed": ["+".join(block["fc2"]) for block in expected["blocks"]],
        "extra": [],
        "seconds": {},
        **result,
    }


def table(models: Mapping[str, Any]) -> str:
    """Return one line per model with its remarks, and the sums per group, as text."""
    head = f"{'model':<58}{'expected':>9}{'found':>7}{'missed':>8}{'extra':>7}{'capture s':>11}{'read s':>8}"
    lines = [head, "-" * len(head)]
    for name, result in models.items():
        seconds = result.get("seconds", {})
        lines.append(
            f"{name:<58}{result['expected']:>9}{result['found']:>7}{len(result['missed']):>8}{len(result['extra']):>7}"
            f"{seconds.get('capture', float('nan')):>11.2f}{seconds.get('read', float('nan')):>8.2f}"
        )
        lines += [f"    {remark}" for remark in _remarks(result)]
    lines.append("-" * len(head))
    for group, row in summary(models).items():
        lines.append(
            f"{group:<20}{row['models']:>4} models, {row['failed']} failed{'':<14}{row['expected']:>12}"
            f"{row['found']:>7}{row['missed']:>8}{row['extra']:>7}  {rates(row)}"
        )
    return "\n".join(lines)


def _remarks(result: Mapping[str, Any]) -> list[str]:
    remarks = [f"error: {result['error']} {result.get('why', '')}".rstrip()] if result.get("error") else []
    if not result.get("error"):
        remarks += [f"missed: {place}" for place in result["missed"]]
    remarks += [f"extra: {place}" for place in result["extra"]]
    remarks += [f"first projection of {text}" for text in result.get("fc1_differs", ())]
    remarks += [f"calls of {text}" for text in result.get("calls_differ", ())]
    remarks += ["the order differs"] if result.get("order_differs") else []
    remarks += [f"left out: {path}: {why}" for path, why in result.get("left_out", {}).items()]
    return remarks


if __name__ == "__main__":
    raise SystemExit(main())
