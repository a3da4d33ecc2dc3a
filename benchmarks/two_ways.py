"""Insertion through the module and through the program, on every model of the zoo in which a block was found.

    python benchmarks/two_ways.py                    the whole sweep: a table, and results/two_ways.json
    python benchmarks/two_ways.py --only timm/swin   those models again; the other results stay
    python benchmarks/two_ways.py --missing          only models without a result

CB, and CB_S with a different random vector per site, are inserted into all default blocks. Three results must agree:
the edited module, the edited program, and a node-by-node run of the unedited graph in which the mean at each site is
computed by hand in float64. No key of the state dict may change: CB adds none, CB_S adds one scale per site. The exit
code is 1 if a model fails. A case is not conclusive if the insertion changes the outputs by less than twenty times the
difference between the results.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.zoo import entries  # noqa: E402
from benchmarks.zoo.insertion import measure  # noqa: E402
from benchmarks.zoo.sweeping import Sweep, parser  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "two_ways.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; return the exit code."""
    return Sweep(
        script=Path(__file__),
        schema="cbsurgeon.two-ways/1",
        results=RESULTS,
        entries=lambda: (entry for entry in entries() if entry.group != "negative"),
        measure=measure,
        lost=lambda entry, result: {"group": entry.group, "family": entry.family, "cases": [], **result},
        good=good,
        summary=summary,
        table=table,
    ).run(parser((__doc__ or "").splitlines()[0], RESULTS).parse_args(arguments))


def good(result: Mapping[str, Any]) -> bool:
    """Return whether a model has no error and all of its cases agree."""
    return not result.get("error") and all(case["agree"] for case in result["cases"])


def summary(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sums over all models."""
    cases = [case for result in models.values() for case in result["cases"]]
    return {
        "models": len(models),
        "with_blocks": sum(bool(result["cases"]) for result in models.values()),
        "failed": sum(not good(result) for result in models.values()),
        "cases": len(cases),
        "sites": sum(case["sites"] for case in cases),
        "bit_equal": sum(case["bit_equal"] for case in cases),
        "keys_kept": sum(case.get("keys_kept", False) for case in cases),
        "says_little": sum(not case["telling"] for case in cases),
        "largest_two_ways": max((case["two_ways"] for case in cases if case["two_ways"] is not None), default=None),
        "largest_by_hand": max((case["by_hand"] for case in cases), default=None),
    }


def table(models: Mapping[str, Any]) -> str:
    """Return one line per model and case, and the sums, as text."""
    head = f"{'model':<48}{'operator':>9}{'position':>10}{'sites':>6}{'two ways':>11}{'by hand':>11}{'moves':>11}"
    lines = [head, "-" * len(head)]
    for name, result in models.items():
        for case in result["cases"]:
            two_ways = "module" if case["two_ways"] is None else f"{case['two_ways']:.1e}"
            remark = "DIFFERS" if not case["agree"] else "" if case["telling"] else "says little"
            lines.append(
                f"{name:<48}{case['op']:>9}{case['position']:>10}{case['sites']:>6}{two_ways:>11}"
                f"{case['by_hand']:>11.1e}{case['moves']:>11.1e}   {remark}".rstrip()
            )
        lines += [f"{name}: {result[word]}" for word in ("error", "why", "note") if result.get(word)]
    lines += ["-" * len(head), *(f"{word}: {value}" for word, value in summary(models).items())]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
