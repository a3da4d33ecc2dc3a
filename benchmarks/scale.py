"""Time and peak memory of inspection by depth and width, and for a model of ViT-22B's shape without weights.

    python benchmarks/scale.py               all models: a table, and results/scale.json
    python benchmarks/scale.py -o FILE       path of the JSON file

Every model is measured in its own process, so that peak memory is that of one model. *Reading* is the part of
inspection after capture. The exit code is 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# When run as a script, this folder is first on sys.path; the package is one folder up.
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]

RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
SCHEMA = "cbsurgeon.scale/1"
PACKAGES = ("torch", "timm")

#: 96 blocks have 8 times the nodes of 12 blocks; the limit is one larger, for other work on the machine.
MOST_GROWTH = 9.0
#: Reading must take a small fraction of the time of capture.
MOST_SHARE = 0.10
#: A model whose weights would take 86 GB must be inspected on a laptop in less than a minute.
MOST_SECONDS = 60.0
MOST_MB = 2.5e9 / 2**20

#: Number of readings, of which the fastest counts, because other work on the machine only adds time.
READINGS = 7


@dataclass(frozen=True)
class Shape:
    """One model to measure.

    Attributes:
        name: its name in the table.
        depth, width, heads: of the transformer.
        patch: edge of a patch of the 224-pixel image.
        parallel: attention and MLP side by side on one stream with a shared input projection, as in ViT-22B.
        meta: whether it is built without weights.
    """

    name: str
    depth: int
    width: int
    heads: int
    patch: int = 16
    parallel: bool = False
    meta: bool = False


DEPTHS = tuple(Shape(f"ViT-S, {depth} blocks", depth, 384, 6) for depth in (12, 24, 48, 96))
WIDTHS = tuple(
    Shape(f"width {width}, 12 blocks", 12, width, width // 64, meta=True) for width in (192, 384, 768, 1536, 3072, 6144)
)
HUGE = (
    Shape("ViT-22B shape, parallel", 48, 6144, 48, patch=14, parallel=True, meta=True),
    Shape("ViT-22B shape, sequential", 48, 6144, 48, patch=14, meta=True),
)


def main(arguments: list[str] | None = None) -> int:
    """Measure all models, print and write the results, and check the limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="path of the results")
    parser.add_argument("--child", metavar="SHAPE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(Shape(**json.loads(options.child)))))
        return 0
    rows = [_in_child(shape) for shape in (*DEPTHS, *WIDTHS, *HUGE)]
    bounds = judge(rows)
    document = {
        "schema": SCHEMA,
        "packages": {name: version(name).split("+")[0] for name in PACKAGES},
        "threads": 1,
        "models": rows,
        "bounds": bounds,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    _show(rows, bounds)
    return 0 if all(bound["holds"] for bound in bounds) else 1


def _in_child(shape: Shape) -> dict[str, Any]:
    print(f"{shape.name} ...", file=sys.stderr)
    command = [sys.executable, __file__, "--child", json.dumps(asdict(shape))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{shape.name} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(shape: Shape) -> dict[str, Any]:
    """Inspect one model as a user does, then read its program again and again. Runs in a process of its own."""
    import torch

    from cbsurgeon.graph import inspect
    from cbsurgeon.graph.capture import capture
    from cbsurgeon.models.model import Model

    torch.set_num_threads(1)
    module = build(shape)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    picture = torch.zeros(2, 3, 224, 224, device="meta") if shape.meta else torch.randn(2, 3, 224, 224)
    imported = _peak_mb()
    start = time.perf_counter()
    found = inspect(Model(module, (picture,)), check=False)
    seconds = time.perf_counter() - start
    peak = _peak_mb()
    program = capture(Model(module, (picture,)), check=False).exported
    return {
        **asdict(shape),
        "parameters": parameters,
        "blocks": sum(block.default for block in found),
        "inspect_s": round(seconds, 3),
        "capture_s": round(found.seconds["capture"], 3),
        "read_s": round(min(_reading(Model(None, program=program)) for _ in range(READINGS)), 5),
        "peak_mb": round(peak, 1),
        "imported_mb": round(imported, 1),
    }


def build(shape: Shape) -> Any:
    """Return a vision transformer of a shape, with random weights or without weights."""
    import timm
    import torch
    from timm.models.vision_transformer import Block, ParallelScalingBlock

    torch.manual_seed(0)
    with torch.device("meta" if shape.meta else "cpu"):
        return timm.models.vision_transformer.VisionTransformer(
            img_size=224,
            patch_size=shape.patch,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            qk_norm=shape.parallel,
            block_fn=ParallelScalingBlock if shape.parallel else Block,
        ).eval()


def _reading(model: Any) -> float:
    """Return the processor seconds of one inspection of a captured program."""
    from cbsurgeon.graph import inspect

    start = time.process_time()
    inspect(model)
    return time.process_time() - start


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each limit with the measured value and whether it holds."""
    by_name = {row["name"]: row for row in rows}
    shallow, deep = by_name[DEPTHS[0].name], by_name[DEPTHS[-1].name]
    growth = deep["read_s"] / shallow["read_s"]
    bounds = [
        _bound(f"reading, {shallow['depth']} -> {deep['depth']} blocks", growth, MOST_GROWTH, "x"),
        *(
            _bound(f"reading / capture, {row['name']}", row["read_s"] / row["capture_s"], MOST_SHARE, "")
            for row in (shallow, deep)
        ),
    ]
    for shape in HUGE:
        row = by_name[shape.name]
        bounds += [
            _bound(f"inspect, {shape.name}", row["inspect_s"], MOST_SECONDS, "s"),
            _bound(f"peak memory, {shape.name}", row["peak_mb"], MOST_MB, "MB"),
        ]
    missing = [row for row in rows if row["blocks"] != row["depth"]]
    return [*bounds, _bound("models with a block missed", len(missing), 0, "")]


def _bound(what: str, measured: float, most: float, unit: str) -> dict[str, Any]:
    holds = measured <= most
    return {"what": what, "measured": round(measured, 4), "most": round(most, 2), "unit": unit, "holds": holds}


def _show(rows: list[dict[str, Any]], bounds: list[dict[str, Any]]) -> None:
    print(f"{'model':<28}{'blocks':>7}{'params':>9}{'capture s':>11}{'read s':>9}{'read/capture':>14}{'peak MB':>9}")
    for row in rows:
        share = row["read_s"] / row["capture_s"]
        print(
            f"{row['name']:<28}{row['blocks']:>7}{row['parameters'] / 1e6:>8.0f}M{row['capture_s']:>11.2f}"
            f"{row['read_s']:>9.3f}{share:>13.1%} {row['peak_mb']:>8.0f}"
        )
    print()
    for bound in bounds:
        verdict = "holds" if bound["holds"] else "BROKEN"
        print(f"{verdict:<7}{bound['what']:<46}{bound['measured']:>10g} (at most {bound['most']:g}) {bound['unit']}")


if __name__ == "__main__":
    raise SystemExit(main())
