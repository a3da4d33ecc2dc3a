"""Names of ONNX nodes: where and what, unique, and the same with and without operators."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbsurgeon.deploy import export_onnx
from tests.deploy import networks

onnx = pytest.importorskip("onnx", reason="files are read back with onnx")
pytest.importorskip("onnxscript", reason="torch.onnx needs it")


def _nodes(folder: Path, model: object, **how: object) -> dict[str, str]:
    export_onnx(model, folder / "m.onnx", force=True, **how)
    nodes = onnx.load(folder / "m.onnx").graph.node
    found = {node.name: node.op_type for node in nodes}
    assert len(found) == len(nodes), "names are unique"
    return found


def test_nodes_are_named_by_module_and_operator(tmp_path: Path) -> None:
    before = _nodes(tmp_path, networks.plain("vit"))
    assert before["blocks.2.mlp.fc2/MatMul"] == "MatMul" and before["blocks.2.mlp.fc2/Add"] == "Add"
    assert before["blocks.0.norm1/LayerNormalization"] and before["head/Gemm"]
    assert {"blocks.2/Add", "blocks.2/Add_1"} <= set(before), "the two residual additions"
    folded = _nodes(tmp_path, networks.edited("vit"))
    site = "blocks.{}.mlp/context_broadcast/{}"
    added = {site.format(block, step) for block in (1, 2) for step in ("mean", "add")}
    assert set(folded) == {*before, *added}, "the model's own nodes keep their names"
    assert all(folded[name] == kind for name, kind in before.items())
