"""Throughput of ``evaluate`` compared with timm's validate.py, a plain timm loop and a bare ONNX Runtime loop.

    python benchmarks/evaluation.py IMAGES [--validate timm/validate.py] [--limit 500] [--rounds 5]

IMAGES is a folder with one sub-folder per class; ``--limit`` takes evenly spaced images from it. validate.py is a
script of timm's repository that is not part of its package, so its path must be given. All programs take turns in one
process, so that a busy machine slows them equally. Each one decodes, preprocesses and classifies the same images in the
same batches, with the same number of worker processes, and must find the same top-1 accuracy. Two times are measured
for each pass:

- seconds from the first image to the last, as each tool counts them, without opening the models;
- processor seconds of the whole pass, worker processes included, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import cbsurgeon as cbs
from cbsurgeon.checks.environment import environment

RESULTS = Path(__file__).resolve().parent / "results" / "evaluation.json"
BATCH = 32
METRICS = ("top1", "nll")
PAIRS = {
    "evaluate, eager": ("timm's validate.py", "plain timm loop"),
    "evaluate, ONNX Runtime": ("bare ONNX Runtime loop",),
}
Pass = Callable[[], tuple[float, float]]
"""A pass over the images; returns seconds and top-1 accuracy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--validate", type=Path, help="validate.py of timm's repository")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        images = chosen(given.images, Path(place) / "images", given.limit)
        arms = prepared(given, images, Path(place))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for turn in range(given.rounds + 1):
            found = {name: measured(arm) for name, arm in arms.items()}
            assert len({row["top1"] for row in found.values()}) == 1, found
            for name, row in found.items() if turn else ():  # the first round fills caches
                rows[name].append(row)
                print(f"{turn} {name:24} {row['seconds']:8.2f} s {row['processor']:8.2f} processor s", flush=True)
    document = {
        "schema": "cbsurgeon.evaluation-speed/1",
        "model": given.model,
        "images": given.limit,
        "batch": BATCH,
        "workers": given.workers,
        "images_per_second": {
            name: round(given.limit / statistics.median(row["seconds"] for row in own), 2) for name, own in rows.items()
        },
        "ratios": ratios(rows),
        "rows": rows,
        "environment": environment(),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    for ratio in document["ratios"]:
        print(
            f"{ratio['ours']} over {ratio['other']}: time {ratio['seconds']['median']:.3f}"
            f" ({ratio['seconds']['least']:.3f} to {ratio['seconds']['most']:.3f}), processor time"
            f" {ratio['processor']['median']:.3f} ({ratio['processor']['least']:.3f} to"
            f" {ratio['processor']['most']:.3f})"
        )


def chosen(source: Path, folder: Path, limit: int) -> Path:
    """Return a folder of links to evenly spaced images."""
    every = sorted(path for path in source.rglob("*") if path.is_file())
    for place in range(limit):
        path = every[place * len(every) // limit]
        link = folder / path.relative_to(source).parts[0] / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder


def prepared(given: argparse.Namespace, images: Path, place: Path) -> dict[str, Pass]:
    """The arms, opened."""
    classes = sum(1 for entry in images.iterdir())
    model = cbs.load(f"timm:{given.model}", options={"num_classes": classes})
    file, weights = place / "m.onnx", place / "m.safetensors"
    cbs.export(model, file)
    arms: dict[str, Pass] = {}
    if given.validate:
        from safetensors.torch import save_file

        assert model.module is not None
        save_file(dict(model.module.state_dict()), weights)
        words = ["--data-dir", str(images), "--model", given.model, "--num-classes", str(classes)]
        words += ["--checkpoint", str(weights), "-b", str(BATCH), "-j", str(given.workers)]
        arms["timm's validate.py"] = validate(given.validate, [*words, "--device", "cpu", "--log-freq", "1"])
    arms["plain timm loop"] = timm_loop(model, images, given.workers)
    arms["evaluate, eager"] = ours(model, images, given.workers)
    arms["bare ONNX Runtime loop"] = onnx_loop(model, file, images, given.workers)
    arms["evaluate, ONNX Runtime"] = ours(file, images, given.workers)
    return arms


def measured(arm: Pass) -> dict[str, float]:
    """Return seconds, processor seconds and top-1 accuracy of one pass."""
    before = sum(os.times()[:4])
    seconds, top1 = arm()
    return {"seconds": seconds, "processor": round(sum(os.times()[:4]) - before, 3), "top1": round(top1, 6)}


def ratios(rows: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return the ratio of the times of ``evaluate`` and of each other program, for each round."""
    found = []
    for own, others in PAIRS.items():
        for other in others:
            if other in rows:
                pair: dict[str, Any] = {"ours": own, "other": other}
                for unit in ("seconds", "processor"):
                    each = [a[unit] / b[unit] for a, b in zip(rows[own], rows[other], strict=True)]
                    pair[unit] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
                found.append(pair)
    return found


def ours(side: Any, images: Path, workers: int) -> Pass:
    """``evaluate`` with two metrics, as the loops have."""

    def run() -> tuple[float, float]:
        found = cbs.evaluate(side, data=images, batch=BATCH, workers=workers, metrics=METRICS)
        top1 = found.metrics["a"]["top1"]
        assert top1 is not None
        return found.samples / found.rate, top1

    return run


def validate(script: Path, words: list[str]) -> Pass:
    """timm's own script; it logs the mean time of a batch."""
    spec = importlib.util.spec_from_file_location("timm_validate", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    module._logger.addHandler(handler)
    module._logger.setLevel(logging.INFO)
    module._logger.propagate = False

    def run() -> tuple[float, float]:
        said.clear()
        top1 = module.validate(module.parser.parse_args(words))["top1"]
        each = [match for line in said if (match := re.search(r"Test:.*\((\d+\.\d+)s,", line))]
        return float(each[-1][1]) * len(each), top1 / 100

    return run


def loader_of(model: cbs.Model, images: Path, workers: int) -> torch.utils.data.DataLoader[Any]:
    """timm's validation transform over the images."""
    from timm.data import create_transform, resolve_data_config
    from torchvision.datasets import ImageFolder

    config = resolve_data_config({}, model=model.module)
    dataset = ImageFolder(str(images), create_transform(**config, is_training=False))
    return torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=workers)


def timm_loop(model: cbs.Model, images: Path, workers: int) -> Pass:
    """The loop of validate.py without the rest of the script."""
    loader, loss, module = loader_of(model, images, workers), torch.nn.CrossEntropyLoss(), model.module
    assert module is not None

    def run() -> tuple[float, float]:
        start, right, count = time.perf_counter(), 0, 0
        with torch.inference_mode():
            for inputs, labels in loader:
                outputs = module(inputs)
                float(loss(outputs, labels))
                right += int((outputs.argmax(1) == labels).sum())
                count += len(labels)
        return time.perf_counter() - start, right / count

    return run


def onnx_loop(model: cbs.Model, file: Path, images: Path, workers: int) -> Pass:
    """A loop with an ONNX Runtime session and numpy only."""
    import onnxruntime

    session, loader = onnxruntime.InferenceSession(str(file)), loader_of(model, images, workers)
    name = session.get_inputs()[0].name

    def run() -> tuple[float, float]:
        start, right, count = time.perf_counter(), 0, 0
        for inputs, labels in loader:
            (outputs,) = session.run(None, {name: inputs.numpy()})
            right += int((outputs.argmax(1) == labels.numpy()).sum())
            count += len(labels)
        return time.perf_counter() - start, right / count

    return run


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]
    main()
