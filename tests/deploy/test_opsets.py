"""Every supported operator set: the file has this set, computes the same as the model, and uses only operators of the
set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cbsurgeon import graph, surgery
from cbsurgeon.checks import verify
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.onnx.lowering import require_opset
from cbsurgeon.errors import ExportError
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import OPSETS

onnx = pytest.importorskip("onnx", reason="files are read back with onnx")
pytest.importorskip("onnxscript", reason="torch.onnx needs it")
pytest.importorskip("onnxruntime", reason="files are run with ONNX Runtime")

WIDTH = 16


class Block(nn.Module):
    """Attention and an MLP, and what differs between operator sets: a maximum and a split whose parts are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return x.amax(dim=1) + x.mean(dim=1)


class Scattered(nn.Module):
    """The largest of the numbers that belong to one place, which operator set 17 cannot say."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.zeros_like(x, dtype=torch.int64)
        return x.scatter_reduce(1, places, x, "amax")


@pytest.fixture(scope="module")
def edited() -> Model:
    torch.manual_seed(0)
    model = Model(Block().eval(), (torch.randn(2, 6, WIDTH),))
    return surgery.insert_program(model, surgery.plan(graph.inspect(model), op="cb_s", layers="all", pos="end"))


@pytest.mark.thin(3)
@pytest.mark.parametrize("opset", OPSETS)
def test_every_supported_opset(edited: Model, opset: int, tmp_path: Path) -> None:
    made = export_onnx(edited, tmp_path / "m.onnx", opset=opset)
    proto = onnx.load(tmp_path / "m.onnx")
    assert made.opset == opset == next(item.version for item in proto.opset_import if item.domain == "")
    assert verify(edited, tmp_path / "m.onnx").ok
    kinds = {node.op_type for node in proto.graph.node}
    assert ("Gelu" in kinds) == (opset >= 20) and ("Attention" in kinds) == (opset >= 23)
    means = [node for node in proto.graph.node if node.op_type == "ReduceMean"]
    assert means and all(len(node.input) == (1 if opset < 18 else 2) for node in means), "axes: an input since 18"
    assert (proto.ir_version == 8) == (opset == 17), "what reads no newer set reads no newer form of file"


def test_a_model_that_an_older_set_cannot_express_is_refused_with_the_operator(tmp_path: Path) -> None:
    model = Model(Scattered().eval(), (torch.randn(2, 5),))
    with pytest.raises(ExportError, match="operator set 17") as caught:
        export_onnx(model, tmp_path / "m.onnx", opset=17)
    assert caught.value.code == "CB-EXPORT-15" and "Scatter" in str(caught.value) and "max" in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()
    export_onnx(model, tmp_path / "m.onnx", opset=18)


def test_an_exporter_that_keeps_another_set_is_an_error() -> None:
    """torch.onnx only logs a line where it cannot convert."""

    class Kept:
        opset_imports = {"": 18}  # noqa: RUF012

    require_opset(Kept, 18)
    with pytest.raises(ExportError, match="operator set 19"):
        require_opset(Kept, 19)
