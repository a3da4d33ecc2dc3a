"""Start-up, inspection and export, compared with PyTorch alone."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed_parts.timing import MODELS, OPSET, fresh, interleaved, rows_of


def startup(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time new processes: Python alone, ``cbsurgeon --help``, importing torch, and importing cbsurgeon."""
    arms = {
        "python -c pass": ["-c", "pass"],
        "cbsurgeon --help": ["-m", "cbsurgeon", "--help"],
        "import torch": ["-c", "import torch"],
        "import cbsurgeon": ["-c", "import cbsurgeon"],
    }
    times = interleaved({name: lambda words=words: fresh(words) for name, words in arms.items()}, options.repeats)
    yield from rows_of("startup", "", times, "python -c pass")


def inspecting(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time inspection of a model compared with ``torch.export`` of the same model, which it includes."""
    import torch

    import cbsurgeon

    batch = torch.export.Dim("batch", min=1)
    for name, reference in MODELS.items():
        model = cbsurgeon.load(reference)

        def plain(model: Any = model) -> None:
            with torch.no_grad():
                torch.export.export(model.module, model.example_inputs, dynamic_shapes=({0: batch},), strict=False)

        times = interleaved(
            {"torch.export": plain, "cbsurgeon inspect": lambda model=model: cbsurgeon.inspect(model)}, options.repeats
        )
        yield from rows_of("inspect", name, times, "torch.export")


def exporting(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time export compared with ``torch.onnx.export``; cbsurgeon also compares the capture with the model and checks
    the file."""
    import torch

    import cbsurgeon

    batch = torch.export.Dim("batch", min=1)
    for name, reference in MODELS.items():
        model = cbsurgeon.load(reference)
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
            ours, plain = Path(place) / "ours.onnx", Path(place) / "plain.onnx"
            times = interleaved(
                {
                    "torch.onnx.export": lambda model=model, plain=plain: torch.onnx.export(
                        model.module,
                        model.example_inputs,
                        plain,
                        dynamo=True,
                        opset_version=OPSET,
                        dynamic_shapes=({0: batch},),
                        external_data=False,
                        verbose=False,
                    ),
                    "cbsurgeon export": lambda model=model, ours=ours: cbsurgeon.export(
                        model, ours, opset=OPSET, force=True
                    ),
                },
                max(1, options.repeats // 2),
            )
        yield from rows_of("export", name, times, "torch.onnx.export")
