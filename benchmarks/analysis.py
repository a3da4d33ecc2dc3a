"""Time and memory of an analysis compared with a plain forward pass and timm's AttentionExtract.

    python benchmarks/analysis.py                     DeiT-S, batch 8: a table, and results/analysis.json
    python benchmarks/analysis.py --model NAME --batch 16 --repeats 9

Each variant runs in its own process with one thread. The variants take turns, in several rounds:

- ``plain``: a forward pass of the eager model with attention that is not fused.
- ``extract``: AttentionExtract of the same model (the maps of all layers are kept, nothing is computed from them).
- ``maps``: ``cbs.attention_maps``; each map is discarded.
- ``analyze``: the maps and all quantities.

Time is the processor time of the process, which other work on the machine changes little. Memory is the peak resident
set size during the run (weights included), and its increase during the run.

Then ``cbs.analyze`` runs on ``--images`` images in one process and, under torchrun, in two processes with one thread
each. The two take turns. The result is in images per second of wall-clock time, from the end of the first batch of each
process. Both must give equal figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(path for path in sys.path if Path(path or ".").resolve() != ROOT / "benchmarks")]
RESULTS = ROOT / "benchmarks" / "results" / "analysis.json"
ARMS = ("plain", "extract", "maps", "analyze")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="timed passes per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes an arm")
    parser.add_argument("--images", type=int, default=192, help="images for the throughput of one and two processes")
    parser.add_argument("--arm", choices=(*ARMS, "spread"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm == "spread":
        spread(options.model, options.batch, options.images)
        return 0
    if options.arm:
        print(json.dumps(measure(options.arm, options.model, options.batch, options.repeats)))
        return 0
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for _ in range(options.rounds):
        for arm in ARMS:
            rows[arm].append(_process(arm, options))
    shared = [{count: _spread(count, options) for count in (1, 2)} for _ in range(options.rounds)]
    document = {**summary(rows, options), **throughput(shared, options.images, options.batch)}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    for arm, row in document["arms"].items():
        print(
            f"{arm:<9} {row['seconds']:7.3f} s  x{row['time_ratio']:.2f}   peak {row['peak_mb']:6.0f} MB "
            f"x{row['peak_ratio']:.2f}   added {row['added_mb']:5.0f} MB"
        )
    for count, rate in document["images_per_second"].items():
        print(f"{count} process{'es' if count > 1 else ''}: {rate:.2f} images/s")
    print(f"two processes over one: x{document['two_over_one']:.2f}")
    return 0


def _process(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--arm", arm, "--model", options.model]
    words += ["--batch", str(options.batch), "--repeats", str(options.repeats)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _spread(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """One analysis in ``count`` processes."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), __file__]
    words += ["--arm", "spread", "--model", options.model, "--batch", str(options.batch)]
    words += ["--images", str(options.images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _opened(name: str, count: int) -> tuple[Any, Any]:
    """Return the model with random weights and as many random images; from here on, PyTorch uses one thread."""
    import timm
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    size = model.default_cfg["input_size"][-1]
    return model, torch.randn(count, 3, size, size)


def spread(name: str, batch: int, images: int) -> None:
    """Analyse the same images in all processes of torchrun; the first prints seconds and a digest of the figures."""

    import cbsurgeon as cbs
    from cbsurgeon.data.processes import share

    model, data = _opened(name, images)
    marks: list[float] = []
    found = cbs.analyze(
        cbs.Model(model, (data[:2],)),
        data=data,
        batch=batch,
        pictures=0,
        progress=lambda _: marks.append(time.perf_counter()),
    )
    seconds = time.perf_counter() - marks[1]
    if share()[0] == 0:
        figures = json.dumps(found.to_dict()["layers"], sort_keys=True)
        print(json.dumps({"seconds": seconds, "figures": hashlib.sha256(figures.encode()).hexdigest()}), flush=True)


def throughput(rows: list[dict[int, dict[str, Any]]], images: int, batch: int) -> dict[str, Any]:
    """Images per second of one and two processes, which must give equal figures."""
    assert len({one["figures"] for row in rows for one in row.values()}) == 1, rows
    each_rate = [{count: (images - count * batch) / row[count]["seconds"] for count in (1, 2)} for row in rows]
    rates = {count: statistics.median(row[count] for row in each_rate) for count in (1, 2)}
    each = [row[2] / row[1] for row in each_rate]
    return {
        "images": images,
        "images_per_second": rates,
        "two_over_one": statistics.median(each),
        "two_over_one_range": [min(each), max(each)],
    }


def summary(rows: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians over rounds, and their ratio to the plain forward pass."""
    import timm
    import torch

    median = {
        arm: {name: statistics.median(row[name] for row in own) for name in ("seconds", "peak_mb", "added_mb")}
        for arm, own in rows.items()
    }
    plain = median["plain"]
    for row in median.values():
        row["time_ratio"] = row["seconds"] / plain["seconds"]
        row["peak_ratio"] = row["peak_mb"] / plain["peak_mb"]
    return {
        "schema": "cbsurgeon.analysis-cost/1",
        "model": options.model,
        "batch": options.batch,
        "repeats": options.repeats,
        "rounds": options.rounds,
        "packages": {"torch": torch.__version__, "timm": timm.__version__},
        "arms": median,
        "runs": rows,
    }


def measure(arm: str, name: str, batch: int, repeats: int) -> dict[str, Any]:
    """Return the processor seconds per pass and the memory of one variant, measured in this process."""
    import torch

    model, images = _opened(name, batch)
    run = _arm(arm, model, images)
    with torch.no_grad():
        run()
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        times = []
        for _ in range(repeats):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    peak = _resident("VmHWM")
    return {"seconds": statistics.median(times), "peak_mb": peak, "added_mb": peak - before}


def _arm(arm: str, model: Any, images: Any) -> Callable[[], object]:
    from timm.utils import AttentionExtract

    import cbsurgeon as cbs
    from cbsurgeon.analysis.statistics.collecting import Collector
    from cbsurgeon.analysis.tapping import Tapped
    from cbsurgeon.graph.capture import capture

    if arm in ("plain", "extract"):
        for part in model.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
        if arm == "plain":
            return lambda: model(images)
        extract = AttentionExtract(model, method="hook")
        return lambda: extract(images)
    tapped = Tapped(capture(cbs.Model(model, (images[:2],)), check=False))
    inputs = {tapped.program.input_names[0]: images}
    if arm == "maps":
        return lambda: [None for _ in tapped.run(inputs)]
    return lambda: Collector(tapped).add(inputs, list(range(len(images))))


def _resident(field: str) -> float:
    """A field of this process's memory in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


if __name__ == "__main__":
    sys.exit(main())
