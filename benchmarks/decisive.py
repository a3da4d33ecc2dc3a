"""Test whether the verdict of `bench` and `ship` is decisive, on an idle and on a busy machine.

    python benchmarks/decisive.py                      both parts
    python benchmarks/decisive.py --parts same --runs 50

- same: the ONNX file of a small ViT is compared with a copy of itself, many times. The verdict must never be ``slower``
  or ``faster``.
- ship: `cbsurgeon ship timm:deit_small_patch16_224 --layers upper --pos end` runs ten times, each in a new process.
  During every second run, one other task per core computes without a pause. The verdict must be ``negligible``, and the
  upper bound of the own-time overhead at most 0.6 %. Before each run, a process that only builds the model, captures it
  with ``torch.export`` and exports it with ``torch.onnx`` is timed under the same load; ``ship`` must take at most 5
  times as long.

The results are written after every run. Each row has the load average. The exit code is 1 if a run violates these
conditions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "decisive.json"
SCHEMA = "cbsurgeon.decisive/1"
PARTS = ("same", "ship")
SHIP = ("ship", "timm:deit_small_patch16_224", "--layers", "upper", "--pos", "end")
BOUND = 0.006
"""Largest upper bound of the own-time overhead."""

PLAIN = """
import torch, timm
model = timm.create_model("deit_small_patch16_224").eval()
program = torch.export.export(model, (torch.randn(2, 3, 224, 224),), dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save("m.onnx")
"""
"""What anybody runs to export the model without cbsurgeon."""

TIMES_PLAIN = 5.0
"""Largest time of `ship`, divided by that of ``PLAIN``."""


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Run one computing task per core in the ``with`` block, if requested."""
    count = (os.cpu_count() or 1) if wanted else 0
    tasks = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.kill()
            task.wait()


def same(runs: int, budget: float) -> Iterator[dict[str, Any]]:
    """Compare one file with a copy of itself."""
    import timm
    import torch

    from cbsurgeon import checks, deploy
    from cbsurgeon.models import Model

    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=64, num_classes=10).eval()
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
        a, b = Path(place) / "a.onnx", Path(place) / "b.onnx"
        deploy.export_onnx(Model(module, (torch.randn(2, 3, 64, 64),)), a)
        shutil.copy(a, b)
        for _ in range(runs):
            start = time.perf_counter()
            result = checks.bench(a, b, on="onnxruntime", threads=1, budget=budget)
            yield {
                "verdict": result.verdict,
                "own_upper95": result.own.overhead.upper95 if result.own else None,
                "ratio": result.ratio,
                "ci95": list(result.ci95),
                "seconds": time.perf_counter() - start,
                "load": os.getloadavg()[0],
                "ok": result.verdict not in ("slower", "faster"),
            }


def ship(runs: int, _budget: float) -> Iterator[dict[str, Any]]:
    """Run ``ship`` in its own process."""
    for run in range(runs):
        loaded = run % 2 == 1
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place, busy(loaded):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", PLAIN], check=True, capture_output=True, cwd=place)
            plain, start = time.perf_counter() - start, time.perf_counter()
            command = [sys.executable, "-m", "cbsurgeon", *SHIP, "-o", str(Path(place) / "out"), "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            seconds = time.perf_counter() - start
        document = json.loads(done.stdout) if done.stdout.strip() else {}
        found = [one for one in document.get("documents", []) if one.get("schema", "").startswith("cbsurgeon.bench/")]
        bench = found[0] if found else {}
        overhead = (bench.get("own_time") or {}).get("overhead") or {}
        row = {
            "verdict": bench.get("verdict"),
            "share": (bench.get("share") or {}).get("value"),
            "own": overhead.get("value"),
            "own_upper95": overhead.get("upper95"),
            "ratio": bench.get("ratio"),
            "ci95": bench.get("ci95"),
            "exit": done.returncode,
            "seconds": seconds,
            "plain_seconds": plain,
            "busy": loaded,
            "load": os.getloadavg()[0],
        }
        upper = row["own_upper95"]
        ok = row["verdict"] == "negligible" and upper is not None and upper <= BOUND
        yield {**row, "ok": ok and seconds <= TIMES_PLAIN * plain}


MEASURES = {"same": same, "ship": ship}


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the results; return 1 if a run violates its conditions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, help="50 of the same file, 10 of ship")
    parser.add_argument("--budget", type=float, default=1.5, help="seconds of each run of the same file")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    from cbsurgeon.checks.environment import environment

    document: dict[str, Any] = {"schema": SCHEMA, "environment": environment(), "bound": BOUND, "rows": []}
    if options.output.exists():
        document["rows"] = json.loads(options.output.read_text(encoding="utf-8"))["rows"]
    for part in options.parts:
        document["rows"] = [row for row in document["rows"] if row["part"] != part]
        for row in MEASURES[part](options.runs or {"same": 50, "ship": 10}[part], options.budget):
            document["rows"].append({"part": part, **row})
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            print(part, json.dumps(row), flush=True)
    missed = [row for row in document["rows"] if not row["ok"]]
    print(f"{len(missed)} of {len(document['rows'])} runs violate their conditions", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
