"""Own time of Context Broadcasting's operators in ONNX Runtime: folded against the paper's line.

Both files hold the same weights. ONNX Runtime's profiler times every operator; what is summed is the median time of the
operators that belong to an inserted site. The two files take turns, so that a busy machine slows both.

    python benchmarks/folding.py [--batch 1 8] [--models vit_tiny_patch16_224 ...] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import onnx
import timm
import torch

from cbsurgeon import graph, surgery
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.onnx_file import module_path
from cbsurgeon.deploy.runtimes.onnx_runtime import OnnxRuntime
from cbsurgeon.models.model import Model

MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224")
TARGET = 0.65
ROUNDS, RUNS, WARM = 5, 12, 2


def operators(path: Path) -> set[str]:
    """Names of the operators that belong to an inserted site."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    notes = {node.name: {item.key: item.value for item in node.metadata_props} for node in nodes}
    return {name for name, note in notes.items() if "context_broadcast" in module_path(note)}


def own_time(path: Path, inputs: dict[str, torch.Tensor], folder: Path, threads: int) -> float:
    """Microseconds per run spent in the inserted operators: the sum of each one's median."""
    names, times = operators(path), defaultdict(list)
    with OnnxRuntime(path, threads=threads, profile=folder / "profile") as runtime:
        for _ in range(RUNS):
            runtime.run(inputs)
        profile = runtime.end_profiling()
    for event in json.loads(profile.read_text()):
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"] and name in names:
            times[name].append(event["dur"])
    profile.unlink()
    return sum(statistics.median(durations[WARM:]) for durations in times.values())


def measure(name: str, batch: int, threads: int) -> dict[str, object]:
    """One model at one batch size."""
    model = Model(timm.create_model(name).eval(), (torch.randn(2, 3, 224, 224),))
    edited = surgery.insert_program(model, surgery.plan(graph.inspect(model), layers="all", pos="end"))
    program = graph.capture(edited)
    inputs = program.with_batch(batch)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        line, folded = folder / "line.onnx", folder / "folded.onnx"
        export_onnx(edited, line, fold=False, program=program)
        made = export_onnx(edited, folded, program=program)
        rounds = [
            (own_time(line, inputs, folder, threads), own_time(folded, inputs, folder, threads)) for _ in range(ROUNDS)
        ]
    ratio = statistics.median(after / before for before, after in rounds)
    return {
        "model": name,
        "batch": batch,
        "threads": threads,
        "sites": len(made.sites),
        "line_us": statistics.median(before for before, _ in rounds),
        "folded_us": statistics.median(after for _, after in rounds),
        "ratio": ratio,
        "ok": ratio <= TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for batch in options.batch:
            rows.append(measure(name, batch, options.threads))
            print(
                "{model:<32} batch {batch:<3} {line_us:>8.0f} -> {folded_us:>8.0f} us  ratio {ratio:.2f}".format(
                    **rows[-1]
                ),
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"schema": "cbsurgeon.folding/1", "target": TARGET, "rows": rows}, indent=2))
    if not all(row["ok"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
