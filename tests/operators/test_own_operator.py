"""The example of a user's own operator: it runs as documented, and its formula and cost are compared with its nodes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cbsurgeon.checks.cost.nodes import Sizes, batch_symbols, node_costs
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators import Operator, build

FOLDER = Path(__file__).parents[2] / "examples" / "05_own_operator"
N, C = 13, 8


@pytest.fixture
def kind() -> Iterator[type[Operator]]:
    spec = importlib.util.spec_from_file_location("max_context", FOLDER / "max_context.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["max_context"] = module
    spec.loader.exec_module(module)
    yield module.MaxContext
    del sys.modules["max_context"]


@pytest.mark.wide
def test_the_example_runs_end_to_end() -> None:
    for package in ("timm", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the example says it needs it")
    command = [sys.executable, "-W", "ignore", str(FOLDER / "end_to_end.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the identity before training: True" in done.stdout
    assert float(re.search(r"largest scale (\S+)", done.stdout)[1]) > 0, "the operator was trained"
    assert f"+{2 * 192} " in done.stdout, "two sites of 192 scales"
    assert done.stdout.count("2NC + C: maximum, scale maximum, add") == 2
    assert done.stdout.count("is not folded: x has no factor that weights could take") == 2
    assert "\nsame: " in done.stdout


def test_its_formula(kind: type[Operator]) -> None:
    """Against a loop over tokens and channels."""
    operator = build("mod:max_context:MaxContext", C, 2, (1,), {"initial": 0.5})
    assert isinstance(operator, kind) and operator.options() == {"initial": 0.5}
    x = torch.randn(2, N, C)
    expected = x.clone()
    for row, channel in ((row, channel) for row in range(2) for channel in range(C)):
        expected[row, :, channel] += 0.5 * max(x[row, :, channel].tolist())
    assert torch.equal(operator(x), expected)


def test_its_cost_is_what_its_nodes_do(kind: type[Operator]) -> None:
    graph = capture(Model(kind(C, 2, (1,)).eval(), (torch.randn(2, N, C),))).exported.graph_module
    weights = frozenset(node.name for node in graph.graph.nodes if node.name.startswith("p_"))
    cost = kind.cost(N, C)
    for batch in (1, 3):
        nodes = list(node_costs(graph, Sizes(batch_symbols(graph.graph, batch)), weights))
        assert sum(node.operations for node in nodes) == batch * cost.flops
        assert sum(node.bytes for node in nodes) == 4 * cost.traffic[0].moved(batch)
        assert sum(node.kind == "counted" for node in nodes) == cost.traffic[0].kernels
