"""Parity and latency on an NVIDIA GPU, for every runtime with GPU support, in at most ten minutes.

    python benchmarks/gpu.py                                             the whole plan, most important rows first
    python benchmarks/gpu.py --models ViT-S --batches 8 64 --seconds 300 a part of it
    python benchmarks/gpu.py --device cpu --models ViT-Ti --batches 1    try the script without a GPU

Parity: CB in the upper half of the model, in one dtype and one runtime on the GPU, compared with the eager model on the
CPU, with the tolerances of ``cbsurgeon verify``. Latency: CB folded, CB as written in the paper, CB_S and SE are
compared with the unedited model, interleaved, as replayed CUDA graphs, by the operators' own time and end to end;
``base`` is the unedited model against a second copy of it. At the end, the public command ``cbsurgeon bench`` runs.

Each group of rows runs in a process of its own, so that an error of CUDA ends one group only. The results are written
after each row. A runtime that is not installed has a row with this reason; so has a group for which no time was left. A
runtime that is installed and fails is a failure. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and its files would hide packages of the same name.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.gpu_rows.plan import DTYPES, MODELS, Group, plan  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SCHEMA = "cbsurgeon.gpu/3"
PREFIX = "row "
"""Beginning of the line with which a group's process reports a row."""

Row = dict[str, Any]


def group_rows(group: Group, options: argparse.Namespace, left: float) -> Iterator[Row]:
    """Run a group in a process of its own and yield its rows; one more if the process ends with an error."""
    if left < 5:
        yield {**group.row(), "ok": None, "why": "no time was left", "seconds": 0.0}
        return
    words = [sys.executable, "-W", "ignore", __file__, "--group", group.to_json(), "--device", options.device]
    words += ["--budget", str(options.budget)]
    limit = min(group.seconds, left)
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
        said, code, end = done.stdout, done.returncode, done.stderr.strip()[-300:]
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout.decode(errors="replace") if isinstance(expired.stdout, bytes) else expired.stdout or ""
        code, end = None, f"it was ended after {limit:.0f} s"
    yield from (json.loads(line.removeprefix(PREFIX)) for line in said.splitlines() if line.startswith(PREFIX))
    if code != 0:
        yield {**group.row(), "ok": False if code is not None else None, "why": end or f"exit code {code}"}


def show(row: Row) -> str:
    """Return the row as a line of text."""
    batch = f"batch {row['batch']}" if "batch" in row else ""
    head = (
        f"{row['part']:<8}{row['model']:<11}{row['dtype']:<9}{row['backend']:<21}{batch:<10}{row.get('variant', ''):<7}"
    )
    if "why" in row:
        return f"{head}{'FAILED' if row['ok'] is False else 'left out':<10}{row['why']}"
    if row["part"] == "parity":
        word = "same" if row["ok"] else "DIFFERENT"
        return f"{head}{word:<10}max |Δ| {row['max_abs']:.1e} of {row['allowed']:.1e} allowed"
    low, high = (100 * (value - 1) for value in row["ci95"])
    first, second = (1e3 * row["median_seconds"][side] for side in ("a", "b"))
    own = "not measured"
    if row["own_time"]:
        overhead = row["own_time"]["overhead"]
        bounds = " to ".join(f"{100 * bound:+.2f}" for bound in overhead["ci95"])
        own = f"{100 * overhead['value']:+.2f} % ({bounds})"
    pairs = f"{first:.3f} -> {second:.3f} ms {100 * (row['ratio'] - 1):+.2f} % ({low:+.2f} to {high:+.2f})"
    return f"{head}own time {own:<26} end to end {pairs}  {row['verdict']}"


def main(arguments: list[str] | None = None) -> int:
    """Measure all groups, or one of them in this process; print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["ViT-S", "Swin-T", "Mixer-S/16"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 1, 64, 256], help="samples per call of latency")
    parser.add_argument("--parts", nargs="+", choices=("parity", "latency", "command"), help="leave out the others")
    parser.add_argument("--seconds", type=float, default=570.0, help="for the whole script")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of measuring for each row of latency")
    parser.add_argument("--device", default="cuda", help="cpu tries the script without a GPU")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--group", type=Group.parse, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.group is not None:
        from benchmarks.gpu_rows.measuring import measure

        for row in measure(options.group, options.device, options.budget):
            print(f"{PREFIX}{json.dumps(row)}", flush=True)
        return 0
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: PyTorch finds no NVIDIA GPU on this machine; nothing was checked", file=sys.stderr)
        return 2
    start, rows = time.monotonic(), list[Row]()
    for group in plan(options.models, options.dtypes, options.batches):
        if options.parts and group.part not in options.parts:
            continue
        for row in group_rows(group, options, options.seconds - (time.monotonic() - start)):
            rows.append(row)
            print(show(row), flush=True)
            write(options.output, rows, options.device, time.monotonic() - start)
    ran = [row for row in rows if row["ok"] is not None]
    print(f"{len(rows)} rows: {sum(row['ok'] is True for row in rows)} measured, {len(rows) - len(ran)} left out")
    return 0 if ran and all(row["ok"] for row in ran) else 1


def write(path: Path, rows: list[Row], device: str, seconds: float) -> None:
    """Write the results; called after every row, so that an interrupted run keeps its rows."""
    import torch

    from cbsurgeon.checks.environment import environment

    facts: Row = {"device": device}
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        facts = {"gpu": found.name, "capability": [found.major, found.minor], "memory_bytes": found.total_memory}
        facts["cuda"] = torch.version.cuda
    document = {"schema": SCHEMA, "environment": {**environment(), **facts}, "seconds": round(seconds, 1), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
