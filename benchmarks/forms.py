"""Forms of Context Broadcasting at the end of an MLP, timed one by one in ONNX Runtime on the CPU.

    python benchmarks/forms.py
    python benchmarks/forms.py --threads 1 --batch 1

The model has four down projections in a row, each with its bias and its residual addition, and CB in one of several
exact forms after each. All forms take turns under ONNX Runtime's profiler; the time of a node is the mean of its
fastest quarter of runs. ``over_base_us`` is the time of all nodes except the projections, minus the same time of the
model without CB, in microseconds per site; a form that saves additions has a smaller value. The output of every form is
compared with the paper's formula in float64. A few minutes; the results are written after every row.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "forms.json"
SCHEMA = "cbsurgeon.forms/1"
SHAPES = {"DeiT-S": (197, 384, 1536), "ViT-Ti": (197, 192, 768), "Mixer-S": (196, 512, 2048)}
SITES, COLD, FASTEST = 4, 3, 4
ROUNDING = 1e-4
"""Tolerance for sums of up to 2048 products of values around one, in float32."""

Nodes = list[tuple[str, list[str], str, dict[str, Any]]]

# Each form gets u (the projection without bias, halved where CB is folded), the bias b and the stream r.
FORMS: dict[str, tuple[str, Nodes]] = {
    "base": ("without CB", [("Add", ["u", "b"], "o", {}), ("Add", ["r", "o"], "next", {})]),
    "line": (
        "the paper's line",
        [
            ("Add", ["u", "b"], "o", {}),
            ("Mul", ["o", "half"], "x", {}),
            ("ReduceMean", ["o", "axes"], "m", {"keepdims": 1}),
            ("Mul", ["m", "half"], "y", {}),
            ("Add", ["x", "y"], "z", {}),
            ("Add", ["r", "z"], "next", {}),
        ],
    ),
    "folded": ("exported files: a row of 1/N times u, added to the bias", [("MatMul", ["row", "u"], "m", {})]),
    "reduce": ("the same with ReduceMean", [("ReduceMean", ["u", "axes"], "m", {"keepdims": 1})]),
    "conv": ("the same with a convolution over the tokens as channels", [("Conv", ["u", "kernel"], "m", {})]),
    "wide": (
        "mean of the projection's input, projected: one token through the weights again",
        [("MatMul", ["row", "h"], "n", {}), ("MatMul", ["n", "w"], "m", {})],
    ),
    "sum of three": (
        "mean, bias and u in one Sum",
        [
            ("MatMul", ["row", "u"], "m", {}),
            ("Sum", ["m", "b", "u"], "o", {}),
            ("Add", ["r", "o"], "next", {}),
        ],
    ),
    "sum of four": (
        "mean, bias, u and the stream in one Sum",
        [("MatMul", ["row", "u"], "m", {}), ("Sum", ["m", "b", "r", "u"], "next", {})],
    ),
    "skip": (
        "the mean joins the stream",
        [
            ("Add", ["u", "b"], "o", {}),
            ("MatMul", ["row", "u"], "m", {}),
            ("Add", ["r", "m"], "s", {}),
            ("Add", ["s", "o"], "next", {}),
        ],
    ),
}
BESIDE_THE_BIAS: Nodes = [
    ("Add", ["m", "b"], "t", {}),
    ("Add", ["u", "t"], "o", {}),
    ("Add", ["r", "o"], "next", {}),
]
"""Last nodes of the forms that differ only in the mean."""


def network(form: str, shape: tuple[int, int, int], path: Path) -> Path:
    """Return the four sites as an ONNX model with a dynamic batch."""
    import onnx
    from onnx import helper, numpy_helper

    tokens, channels, hidden = shape
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "row": np.full((1, 1, tokens), 1 / tokens, np.float32),
        "kernel": np.full((1, tokens, 1), 1 / tokens, np.float32),
        "axes": np.array([1], np.int64),
        "half": np.array(0.5, np.float32),
    }
    share = np.float32(1.0 if form in ("base", "line") else 0.5)
    nodes, stream = [], "r0"
    parts = FORMS[form][1]
    parts = parts if parts[-1][2] == "next" else [*parts, *BESIDE_THE_BIAS]
    for site in range(SITES):
        weight = (rng.standard_normal((hidden, channels)) / hidden**0.5).astype(np.float32)
        constants |= {f"w{site}": weight * share, f"b{site}": rng.standard_normal(channels).astype(np.float32)}
        names = {"h": "h", "r": stream, "next": f"r{site + 1}"} | {
            name: name for name in ("row", "kernel", "axes", "half")
        }
        nodes.append(helper.make_node("MatMul", ["h", f"w{site}"], [f"u{site}"], name=f"projection{site}"))
        for place, (op, sources, result, attributes) in enumerate(parts):
            inputs = [names.get(name, f"{name}{site}") for name in sources]
            output = names.get(result, f"{result}{site}")
            nodes.append(helper.make_node(op, inputs, [output], name=f"{op}{place}_{site}", **attributes))
        stream = f"r{site + 1}"
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", tokens, size])
        for name, size in (("h", hidden), ("r0", channels), (stream, channels))
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "forms", ports[:2], ports[2:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def expected(shape: tuple[int, int, int], h: Any, r: Any) -> Any:
    """Return the result of the paper's formula in float64."""
    _, channels, hidden = shape
    rng = np.random.default_rng(0)
    stream = r.astype(np.float64)
    for _ in range(SITES):
        weight = (rng.standard_normal((hidden, channels)) / hidden**0.5).astype(np.float32)
        x = h.astype(np.float64) @ weight + rng.standard_normal(channels).astype(np.float32)
        stream = stream + 0.5 * x + 0.5 * x.mean(axis=1, keepdims=True)
    return stream


def measure(shape: tuple[int, int, int], batch: int, threads: int, runs: int) -> dict[str, Any]:
    """Return the microseconds per site of all nodes except the projections, minus those of the model without CB."""
    import onnxruntime

    rng = np.random.default_rng(1)
    h, r = (rng.standard_normal((batch, shape[0], size)).astype(np.float32) for size in (shape[2], shape[1]))
    wanted = expected(shape, h, r)
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
        sessions = {}
        for form in FORMS:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.enable_profiling, options.log_severity_level = threads, True, 3
            stem = Path(place) / form.replace(" ", "-")
            options.profile_file_prefix = str(stem)
            path = network(form, shape, stem.with_suffix(".onnx"))
            sessions[form] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        calls: dict[str, Callable[[], Any]] = {
            form: (lambda session=session: session.run(None, {"h": h, "r0": r})[0])
            for form, session in sessions.items()
        }
        for run in range(runs):
            for form in FORMS if run % 2 else reversed(FORMS):
                found = calls[form]()
                if run == 0 and form != "base":
                    assert np.abs(found - wanted).max() <= ROUNDING * np.abs(wanted).max(), form
        times = {form: _beside(Path(session.end_profiling())) for form, session in sessions.items()}
    line = times["line"] - times["base"]
    return {
        form: {"over_base_us": round(time - times["base"], 1), "of_line": round((time - times["base"]) / line, 3)}
        for form, time in times.items()
        if form != "base"
    }


def _beside(profile: Path) -> float:
    """Return the microseconds per site of all nodes except the projections."""
    times = defaultdict(list)
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"]].append(event["dur"])
    warm = {name: sorted(found[COLD:]) for name, found in times.items() if not name.startswith("projection")}
    return float(sum(np.mean(found[: max(1, len(found) // FASTEST)]) for found in warm.values())) / SITES


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    from cbsurgeon.checks.environment import environment

    document: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(),
        "forms": {name: words for name, (words, _) in FORMS.items()},
        "rows": [],
    }
    for name, batch, threads in product(options.shapes, options.batch, options.threads):
        runs, load = max(12, options.runs // batch), os.getloadavg()[0]
        found = measure(SHAPES[name], batch, threads, runs)
        key = {"shape": name, "batch": batch, "threads": threads, "runs": runs, "load": load}
        document["rows"].append({**key, "forms": found})
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(name, batch, threads, {form: row["over_base_us"] for form, row in found.items()}, flush=True)


if __name__ == "__main__":
    main()
