"""CB through to a deployable file, on one model of every family of the zoo.

    python benchmarks/deploy_sweep.py                    the whole sweep: a table, and results/deploy_sweep.json
    python benchmarks/deploy_sweep.py --only timm/swin   those models again; the other results stay
    python benchmarks/deploy_sweep.py --missing          only models without a result

CB goes in at End in the upper half (causal models get the causal form); the result is exported to ONNX, compared with
the edited model in ONNX Runtime (float32, batches 1 and 2), and built into a TensorRT engine. Ends with 1 when a step
of a family fails that is not known to fail upstream.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.coverage import read_truth  # noqa: E402
from benchmarks.zoo import Entry, entries  # noqa: E402
from benchmarks.zoo.deployment import STEPS, measure  # noqa: E402
from benchmarks.zoo.sweeping import Sweep, parser  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "deploy_sweep.json"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx-cu13", "timm", "torchvision", "transformers")


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; the exit code is the verdict."""
    return Sweep(
        script=Path(__file__),
        schema="cbsurgeon.deploy-sweep/1",
        results=RESULTS,
        entries=families,
        measure=measure,
        lost=lambda entry, result: {
            "group": entry.group,
            "family": entry.family,
            "steps": {},
            "remarks": [],
            **result,
        },
        good=lambda result: not result.get("error"),
        summary=summary,
        table=table,
        packages=PACKAGES,
    ).run(parser((__doc__ or "").splitlines()[0], RESULTS, timeout=900.0).parse_args(arguments))


def families() -> Iterator[Entry]:
    """The first model of every family that holds a block."""
    expected, seen = read_truth(), set[tuple[str, str]]()
    for entry in entries():
        if expected[entry.name]["blocks"] and (entry.group, entry.family) not in seen:
            seen.add((entry.group, entry.family))
            yield entry


def summary(models: Mapping[str, Any]) -> dict[str, Any]:
    """How many got how far."""
    reached = Counter(step for result in models.values() for step in result["steps"])
    return {
        "families": len(models),
        "with_blocks": sum(bool(result.get("blocks", 1)) for result in models.values()),
        **{step: reached[step] for step in STEPS},
        "failed": sum(bool(result.get("error")) for result in models.values()),
        "sites": sum(result.get("sites", 0) for result in models.values()),
    }


def table(models: Mapping[str, Any]) -> str:
    """One line per family, its remarks below it, and the sums."""
    head = f"{'model':<50}{'sites':>6}{'insert s':>10}{'onnx s':>8}{'parity s':>10}{'max |diff|':>12}{'engine s':>10}"
    lines = [head, "-" * len(head)]
    for name, result in models.items():
        seconds = [f"{result['steps'].get(step, float('nan')):.1f}" for step in STEPS]
        differ = f"{result['parity']['max_abs']:.1e}" if "parity" in result else "-"
        lines.append(
            f"{name:<50}{result.get('sites', 0):>6}{seconds[0]:>10}{seconds[1]:>8}{seconds[2]:>10}{differ:>12}"
            f"{seconds[3]:>10}"
        )
        lines += [f"    {remark}" for remark in result["remarks"]]
        if result.get("error"):
            lines.append(f"    FAILED: {result['error']} {result.get('why', '')}".rstrip())
    return "\n".join([*lines, "-" * len(head), *(f"{word}: {value}" for word, value in summary(models).items())])


if __name__ == "__main__":
    raise SystemExit(main())
