"""Throughput of ``evaluate`` beside a plain timm loop and a bare ONNX Runtime loop, on the same images.

    python benchmarks/evaluation.py IMAGES [--limit 256] [--rounds 3] [--json results.json]

IMAGES is a folder with one sub-folder a class. The four loops take turns in one process, so that a busy machine slows
all of them alike; every one decodes, preprocesses and classifies the same images in the same batches, without worker
processes. The times are of whole passes, decoding included; opening models is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_data_config
from torchvision.datasets import ImageFolder

import cbsurgeon as cbs
from cbsurgeon.checks.environment import environment

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    classes = sum(1 for entry in given.images.iterdir() if entry.is_dir())
    model = cbs.load(f"timm:{given.model}", options={"num_classes": classes})
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "m.onnx"
        cbs.export(model, file)
        loops = {
            "timm loop, eager": timm_loop(model, given),
            "evaluate, eager": lambda: rate(model, given),
            "bare ONNX Runtime loop": onnx_loop(model, file, given),
            "evaluate, ONNX Runtime": lambda: rate(file, given),
        }
        times: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(given.rounds + 1):
            for name, loop in loops.items():
                found = loop()
                if turn:  # the first turn fills caches
                    times[name].append(found)
    rows = {name: {"images_per_second": round(statistics.median(each), 2), "all": each} for name, each in times.items()}
    ratios = {
        pair: [ours / theirs for ours, theirs in zip(times[f"evaluate, {pair}"], times[other], strict=True)]
        for pair, other in (("eager", "timm loop, eager"), ("ONNX Runtime", "bare ONNX Runtime loop"))
    }
    for name, row in rows.items():
        print(f"{name:28} {row['images_per_second']:8.1f} images/s")
    for pair, each in ratios.items():
        print(f"evaluate / plain, {pair:14} {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})")
    if given.json:
        document = {"model": given.model, "images": given.limit, "batch": BATCH, "rows": rows, "ratios": ratios}
        given.json.write_text(json.dumps({**document, "environment": environment()}, indent=1) + "\n")


def rate(side: object, given: argparse.Namespace) -> float:
    """Images a second of ``evaluate``, as it reports them: from the first image on."""
    found = cbs.evaluate(side, data=given.images, batch=BATCH, workers=0, limit=given.limit, metrics=("top1", "nll"))
    assert found.samples == given.limit
    return found.rate


def subset(model: cbs.Model, given: argparse.Namespace) -> torch.utils.data.DataLoader:
    """timm's own validation transform over the same images."""
    config = resolve_data_config({}, model=model.module)
    dataset = ImageFolder(str(given.images), create_transform(**config, is_training=False))
    chosen = [place * len(dataset) // given.limit for place in range(given.limit)]
    return torch.utils.data.DataLoader(torch.utils.data.Subset(dataset, chosen), batch_size=BATCH)


def timm_loop(model: cbs.Model, given: argparse.Namespace) -> Callable[[], float]:
    """timm's validate.py without its printing: top-1 and loss of every batch."""
    loader, loss = subset(model, given), torch.nn.CrossEntropyLoss()

    def loop() -> float:
        start, right = time.perf_counter(), 0
        with torch.inference_mode():
            for images, labels in loader:
                outputs = model.module(images)
                float(loss(outputs, labels))
                right += int((outputs.argmax(1) == labels).sum())
        return given.limit / (time.perf_counter() - start)

    return loop


def onnx_loop(model: cbs.Model, file: Path, given: argparse.Namespace) -> Callable[[], float]:
    """A session and numpy."""
    import onnxruntime

    session, loader = onnxruntime.InferenceSession(str(file)), subset(model, given)
    name = session.get_inputs()[0].name

    def loop() -> float:
        start, right = time.perf_counter(), 0
        for images, labels in loader:
            (outputs,) = session.run(None, {name: images.numpy()})
            right += int((outputs.argmax(1) == labels.numpy()).sum())
        return given.limit / (time.perf_counter() - start)

    return loop


if __name__ == "__main__":
    assert timm.__version__
    main()
