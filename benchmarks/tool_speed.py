"""Speed of cbsurgeon itself: start-up, inspect, insert and export, compared with other tools for the same task.

    python benchmarks/tool_speed.py                      all parts: tables, and results/tool_speed.json
    python benchmarks/tool_speed.py --parts startup inspect --repeats 3
    python benchmarks/tool_speed.py --parts insert --dtypes float32

The two programs of a ratio take turns (A B B A) in one process; start-up and insert are measured in new processes.
Times are medians with quartiles, in seconds. Parts that are not measured keep their rows. The exit code is 1 if a limit
is exceeded. Polygraphy and onnx-graphsurgeon are compared if they are installed (`pip install polygraphy
onnx-graphsurgeon`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path, and its files would hide packages of the same name.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.speed_parts.large import LARGE, inserting_large, make  # noqa: E402
from benchmarks.speed_parts.onnx_tools import onnx_tools  # noqa: E402
from benchmarks.speed_parts.verbs import exporting, inspecting, startup  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "tool_speed.json"
SCHEMA = "cbsurgeon.tool_speed/1"
PARTS = ("startup", "inspect", "export", "onnx", "insert")

HELP_SECONDS = 0.3
"""Largest start-up time in seconds; a user does not notice a shorter wait."""
INSPECT_RATIO = 3.0
"""Largest ratio of the times of inspection and of ``torch.export`` alone. Inspection also runs the model, to prove that
samples do not influence each other, and that every token sees the others where the graph does not show it (windows)."""
INSERT_SECONDS, INSERT_MEMORY = 20.0, 1.2
"""Limits for a model of a billion parameters: seconds, and peak memory divided by the size of the weights."""
SAME = 1e-4
"""Largest difference between the outputs of two files with the same nodes in float32, relative to the largest output;
the fusions may differ."""


def bounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each limit with the measured value and whether it holds."""
    found = []
    for row in rows:
        if row["arm"] == "cbsurgeon --help":
            found.append(_bound("cbsurgeon --help, seconds", row["median"], HELP_SECONDS))
        if row["part"] == "inspect" and row["arm"] == "cbsurgeon inspect":
            found.append(_bound(f"inspect / torch.export, {row['what']}", row["ratio"], INSPECT_RATIO))
        if row["part"] == "insert":
            found.append(_bound(f"insert, {row['what']}, seconds", row["median"], INSERT_SECONDS))
            found.append(_bound(f"insert, {row['what']}, memory / weights", row["memory_ratio"], INSERT_MEMORY))
        if row["part"] == "onnx" and row["arm"] == "cbsurgeon insert and export" and "difference" in row:
            found.append(_bound(f"file against the one made by hand, {row['what']}", row["difference"], SAME))
    return found


def _bound(what: str, measured: float, most: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "most": most, "holds": measured <= most}


def show(rows: list[dict[str, Any]], judged: list[dict[str, Any]]) -> None:
    """The tables."""
    print(f"{'part':<9}{'model':<52}{'arm':<30}{'median s':>9}{'quartiles':>18}{'ratio':>8}  to")
    for row in rows:
        if "absent" in row:
            print(f"{row['part']:<9}{row['what']:<52}{row['arm']:<30}{row['absent']}")
            continue
        low, high = row["quartiles"]
        tail = f"{row['ratio']:>8.3f}  {row['to']}" if "ratio" in row else ""
        if "memory_ratio" in row:
            peak, weights = row["peak_bytes"] / 1e9, row["weights_bytes"] / 1e9
            memory = f"peak {peak:.2f} GB = {row['memory_ratio']:.3f} x weights of {weights:.2f} GB"
            tail = f"  {row['cpu_seconds']:.1f} s of processor, {memory}"
        print(f"{row['part']:<9}{row['what']:<52}{row['arm']:<30}{row['median']:>9.3f}{low:>9.3f}{high:>9.3f}{tail}")
    print()
    for bound in judged:
        word = "holds" if bound["holds"] else "BROKEN"
        print(f"{word:<7}{bound['what']:<60}{bound['measured']:>10.4g} (at most {bound['most']:g})")


PART: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "startup": startup,
    "inspect": inspecting,
    "export": exporting,
    "onnx": onnx_tools,
    "insert": inserting_large,
}


def written(path: Path) -> list[dict[str, Any]]:
    """Return the rows of earlier runs."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds (A B B A); half as many for slow programs")
    parser.add_argument("--large-repeats", type=int, default=5, help="processes that insert into the large file")
    parser.add_argument("--large", default=LARGE, help="the large model")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of its weights")
    parser.add_argument("--suffix", choices=["safetensors", "pt"], default="safetensors", help="of its file")
    parser.add_argument("--folder", type=Path, help="folder of the large file; a temporary folder by default")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        print(json.dumps(make(options.make, options.large, options.dtypes[0])))
        return 0
    from cbsurgeon.checks.environment import environment

    rows = [row for row in written(options.output) if row["part"] not in options.parts]
    for part in options.parts:
        before = environment()
        for row in PART[part](options):
            rows.append({**row, "load": [before["load"][0], os.getloadavg()[0]]})
            print(f"{part}: {row['what']} {row['arm']} {row.get('median', 'absent')}", file=sys.stderr)
        rows.sort(key=lambda row: PARTS.index(row["part"]))
        judged = bounds(rows)
        document = {"schema": SCHEMA, "environment": before, "rows": rows, "bounds": judged}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    show(rows, judged)
    return 0 if all(bound["holds"] for bound in judged) else 1


if __name__ == "__main__":
    raise SystemExit(main())
