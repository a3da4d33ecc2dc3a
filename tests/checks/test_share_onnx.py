"""Own time of real ONNX files: planted overheads, compared with a profile that the test sums itself."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cbsurgeon.checks.latency.benchmark import bench
from cbsurgeon.checks.latency.share.result import Operators

ROWS, WIDTH, DEPTH = 768, 192, 4
SIZE = 0.3
"""A planted overhead is found with its size within 30 %."""

BUDGET = 4.0

CLAIM = 0.003
"""Below the smallest planted overhead: copying the activations takes 0.8 to 2 % of a run, by processor."""


def gelu(name: str, x: str, root: float = 2**0.5) -> tuple[list[Any], list[Any]]:
    """GELU in five operators, which ONNX Runtime fuses into one where the constants are GELU's."""
    values = {f"{name}_root": root, f"{name}_one": 1.0, f"{name}_half": 0.5}
    weights = [numpy_helper.from_array(np.array(value, dtype=np.float32), key) for key, value in values.items()]
    nodes = [
        helper.make_node("Div", [x, f"{name}_root"], [f"{name}_a"]),
        helper.make_node("Erf", [f"{name}_a"], [f"{name}_b"]),
        helper.make_node("Add", [f"{name}_b", f"{name}_one"], [f"{name}_c"]),
        helper.make_node("Mul", [x, f"{name}_c"], [f"{name}_d"]),
        helper.make_node("Mul", [f"{name}_d", f"{name}_half"], [f"{name}_e"]),
    ]
    return nodes, weights


def network(path: Path, *, plant: Sequence[str] = ()) -> Path:
    """Products and GELUs in a row, with one thing planted: after the first, or in the last GELU."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")]
    x = "x"
    for place in range(DEPTH):
        weight = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
        weights.append(numpy_helper.from_array(weight, f"w{place}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{place}"], [f"m{place}"]))
        made, constants = gelu(f"g{place}", f"m{place}", 1.41 if "fusion" in plant and place == DEPTH - 1 else 2**0.5)
        nodes, weights, x = nodes + made, weights + constants, f"g{place}_e"
        if place == 0 and "mean" in plant:
            nodes.append(helper.make_node("ReduceMean", [x, "axes"], ["mean"], keepdims=1))
            nodes.append(helper.make_node("Add", [x, "mean"], ["mixed"]))
            x = "mixed"
        if place == 0 and "copy" in plant:
            nodes.append(helper.make_node("Neg", [x], ["copied"]))
            x = "copied"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, ROWS, WIDTH]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "network", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def by_hand(path: Path, folder: Path) -> dict[str, float]:
    """Microseconds per run of each operator type, each node at the twelfth fastest of 60 runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(folder / "by-hand")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, ROWS, WIDTH)).astype(np.float32)
    for _ in range(60):
        session.run(None, {"x": x})
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    found: dict[str, float] = defaultdict(float)
    for (op, _), times in nodes.items():
        found[op] += float(np.quantile(times, 0.2))
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("networks") / "plain.onnx")


@pytest.mark.parametrize(
    ("plant", "added", "removed"),
    [
        ("mean", {"ReduceMean": 1, "Add": 1}, {}),
        ("copy", {"Neg": 1}, {}),
        ("fusion", {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2}, {"Gelu": 1}),
    ],
)
def test_planted_overheads_are_slower(
    plain: Path, plant: str, added: dict[str, int], removed: dict[str, int], tmp_path: Path
) -> None:
    other = network(tmp_path / "planted.onnx", plant=[plant])
    result = bench(plain, other, backend="onnxruntime", threads=1, budget=BUDGET, claim=CLAIM)
    assert result.own is not None, result.own_missing
    graph = result.own.graph
    assert _counts(graph.added) == added and _counts(graph.removed) == removed
    assert graph.only_inserted == (not removed)
    before, after = by_hand(plain, tmp_path), by_hand(other, tmp_path)
    gained = sum(after[op] - before.get(op, 0.0) for op in {*added, *removed})
    assert result.own.overhead.value == pytest.approx(gained / sum(before.values()), rel=SIZE)
    assert result.verdict == "slower", result.sentence
    assert result.own.profiled_seconds[0] > 0 and result.profiler_overhead is not None


def _counts(parts: Sequence[Operators]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in parts:
        found[part.op] = found.get(part.op, 0) + part.count
    return found


def test_the_same_file_twice_is_negligible(plain: Path) -> None:
    """Whatever the machine does: equal graphs are never slower or faster."""
    for _ in range(2):
        result = bench(plain, plain, backend="onnxruntime", threads=1, budget=0.8)
        assert result.own is not None and not result.own.graph, result.own_missing
        assert result.own.overhead.upper95 == 0.0 and result.share is not None and result.share.value == 0.0
        assert result.verdict in ("negligible", "inconclusive"), result.sentence
