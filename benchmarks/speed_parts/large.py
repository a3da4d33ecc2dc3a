"""``cbsurgeon insert FILE`` on a file with a billion parameters: seconds and peak memory."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed_parts.timing import Times, fresh

SCRIPT = Path(__file__).resolve().parents[1] / "tool_speed.py"
LARGE = "timm:vit_giant_patch14_224"
"""1.01 billion parameters."""


def inserting_large(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure ``cbsurgeon insert FILE`` in a new process: seconds, and peak memory divided by the size of the
    weights."""
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-", dir=options.folder) as place:
            source = Path(place) / f"large.{options.suffix}"
            made = json.loads(
                fresh([str(SCRIPT), "--make", str(source), "--large", options.large, "--dtypes", dtype]).splitlines()[
                    -1
                ]
            )
            runs = [_insert_once(source, Path(place) / f"out.{options.suffix}") for _ in range(options.large_repeats)]
        memory = max(peak for _, peak, _ in runs)
        yield {
            "part": "insert",
            "what": f"{options.large}, {dtype}, .{options.suffix}",
            "arm": "cbsurgeon insert FILE",
            **Times(tuple(seconds for seconds, _, _ in runs)).to_dict(),
            **made,
            "cpu_seconds": round(statistics.median(cpu for _, _, cpu in runs), 2),
            "peak_bytes": memory,
            "memory_ratio": round(memory / made["weights_bytes"], 3),
        }


_WITNESS = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]))
"""
"""Measures a process from a small parent process, because a process inherits the peak memory of its parent."""


def _insert_once(source: Path, target: Path) -> tuple[float, int, float]:
    """Return seconds, peak resident bytes and processor seconds of one process."""
    words = [sys.executable, "-m", "cbsurgeon", "insert", str(source), "-o", str(target), "--quiet", "--json"]
    seconds, peak, processor = json.loads(fresh(["-c", _WITNESS, *words]))
    target.unlink()
    return seconds, peak, processor


def make(path: Path, reference: str, dtype: str) -> dict[str, Any]:
    """Write the large model with random weights; runs in a process of its own."""
    import torch

    import cbsurgeon
    from cbsurgeon.models import builders
    from cbsurgeon.models.builders.weightless import allocate

    model = builders.build(reference, weightless=True)
    assert model.module is not None
    model.module.to(getattr(torch, dtype))
    allocate(model.module)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.module.parameters():
        parameter.data.uniform_(-0.02, 0.02, generator=generator)
    cbsurgeon.save(model, path)
    held = list(model.module.parameters())
    return {"parameters": sum(p.numel() for p in held), "weights_bytes": sum(p.nbytes for p in held)}
