"""Inspecting and inserting, compared with Polygraphy and onnx-graphsurgeon, which work on exported files."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed_parts.timing import MODELS, OPSET, absent, fresh, interleaved, rows_of


def onnx_tools(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time inspecting a model (in new processes) and inserting CB, compared with Polygraphy and onnx-graphsurgeon."""
    import cbsurgeon

    for name, reference in MODELS.items():
        model = cbsurgeon.load(reference)
        _spread(model.module)
        found = cbsurgeon.inspect(model)
        recipe = cbsurgeon.plan(found)
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
            bare = Path(place) / "bare.onnx"
            cbsurgeon.export(model, bare, opset=OPSET)
            yield from _looking(name, reference, bare, options)
            axes = {f"{found.blocks[site.index].fc2[0]}.bias": list(site.token_axes) for site in recipe.sites}
            yield from _inserting(name, model, recipe, axes, bare, options)


def _spread(module: Any) -> None:
    """Make all biases different, because an exporter merges equal biases, and their names are lost."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def _looking(name: str, reference: str, bare: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    arms: dict[str, Callable[[], object]] = {
        "cbsurgeon inspect": lambda: fresh(["-m", "cbsurgeon", "inspect", reference, "--json"])
    }
    if importlib.util.find_spec("polygraphy"):
        code = "import sys; from polygraphy.tools import main; sys.argv[0] = 'polygraphy'; sys.exit(main())"
        words = ["-c", code, "inspect", "model", str(bare), "--show", "layers"]
        arms = {"polygraphy inspect model": lambda: fresh(words), **arms}
    else:
        yield absent("onnx", f"{name}, looking", "polygraphy inspect model", "polygraphy")
    yield from rows_of("onnx", f"{name}, looking", interleaved(arms, max(1, options.repeats // 2)), next(iter(arms)))


def _inserting(
    name: str, model: Any, recipe: Any, axes: dict[str, list[int]], bare: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Time inserting and exporting a model, and adding CB by hand to an exported file."""
    import cbsurgeon

    hand, ours = bare.with_name("hand.onnx"), bare.with_name("ours.onnx")
    arms: dict[str, Callable[[], object]] = {
        "cbsurgeon insert": lambda: cbsurgeon.insert(model, recipe),
        "cbsurgeon insert and export": lambda: cbsurgeon.export(
            cbsurgeon.insert(model, recipe), ours, opset=OPSET, force=True, fold=False
        ),
    }
    what = f"{name}, inserting"
    if not importlib.util.find_spec("onnx_graphsurgeon"):
        yield absent("onnx", what, "onnx-graphsurgeon by hand", "onnx-graphsurgeon")
        yield from rows_of(
            "onnx", f"{name}, inserting", interleaved(arms, max(1, options.repeats // 2)), next(iter(arms))
        )
        return
    arms = {"onnx-graphsurgeon by hand": lambda: by_hand(bare, hand, axes), **arms}
    times = interleaved(arms, max(1, options.repeats // 2))
    difference = _difference(hand, ours, model)
    for row in rows_of("onnx", what, times, "onnx-graphsurgeon by hand"):
        yield {**row, "sites": len(axes), "difference": difference}


def by_hand(source: Path, target: Path, axes: dict[str, list[int]]) -> None:
    """Add CB to an ONNX file by hand: find the last addition of each MLP by its bias, and insert the paper's line after
    it.

    The biases and the token axes must be known in advance; here they are taken from the recipe.
    """
    import numpy
    import onnx
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(onnx.load(source))
    half = gs.Constant("cb_half", numpy.array(0.5, dtype=numpy.float32))
    for number, bias in enumerate(axes):
        node = next(node for node in graph.nodes if any(getattr(value, "name", "") == bias for value in node.inputs))
        result = node.outputs[0]
        inner, mean, half_mean, half_inner = (
            gs.Variable(f"cb_{number}_{word}", dtype=numpy.float32) for word in ("x", "mean", "half_mean", "half_x")
        )
        node.outputs = [inner]
        over = gs.Constant(f"cb_{number}_axes", numpy.array(axes[bias], dtype=numpy.int64))
        graph.nodes += [
            gs.Node("ReduceMean", inputs=[inner, over], outputs=[mean], attrs={"keepdims": 1}),
            gs.Node("Mul", inputs=[mean, half], outputs=[half_mean]),
            gs.Node("Mul", inputs=[inner, half], outputs=[half_inner]),
            gs.Node("Add", inputs=[half_inner, half_mean], outputs=[result]),
        ]
    graph.cleanup().toposort()
    onnx.save(gs.export_onnx(graph), target)


def _difference(hand: Path, ours: Path, model: Any) -> float:
    """Return the largest difference of the two files on one input, relative to the largest output."""
    import onnxruntime

    found = []
    for path in (hand, ours):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: model.example_inputs[0].numpy()}
        found.append(session.run(None, feeds)[0])
    return float(abs(found[0] - found[1]).max() / abs(found[0]).max())
