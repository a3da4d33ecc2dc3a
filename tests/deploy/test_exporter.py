"""Graphs that torch.onnx cannot export unchanged are rewritten before the export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cbsurgeon.checks import verify
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.onnx.attention import with_four_axes
from cbsurgeon.deploy.onnx.einsum import lowercase
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

onnx = pytest.importorskip("onnx", reason="files are read back with onnx")
pytest.importorskip("onnxscript", reason="torch.onnx needs it")
pytest.importorskip("onnxruntime", reason="files are run with ONNX Runtime")


ROUNDING = 1e-6
"""Attention of five axes and of four may run other kernels: values of about 1, added up in another order."""


SHAPES = {3: (-1, 6, 4), 4: (-1, 3, 2, 4), 5: (-1, 3, 2, 2, 4)}


class Attention(nn.Module):
    """Attention over three axes (heads folded into the batch), four, or five (windows)."""

    def __init__(self, axes: int, masked: bool = False) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.axes, self.masked = axes, masked

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.reshape(SHAPES[self.axes]) for part in self.qkv(x).chunk(3, -1))
        mask = q @ k.transpose(-2, -1) if self.axes == 3 else torch.tensor([[0.0, -5.0], [-1.0, 0.0]])
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask if self.masked else None).reshape(-1, 48)


class Letters(nn.Module):
    """A contraction spelled as torchvision's MaxViT does."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("B I D, B J D -> B I J", x, x)


class Clamped(nn.Module):
    """Two pairs of successive clamps that begin at one tensor, and a mean whose axes the optimizer has to fold."""

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 2).mean(dim=-1, keepdim=True) + x
        first = x.clamp(-1.0, 1.0).clamp(-0.5, 0.5)
        return first + x.clamp(-3.0, 3.0).clamp(-2.0, 2.0)


def _model(module: nn.Module, *shape: int) -> Model:
    return Model(module.eval(), (torch.randn(2, *shape),))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axes", [3, 5])
def test_attention_of_other_than_four_axes(axes: int, masked: bool, tmp_path: Path) -> None:
    model = _model(Attention(axes, masked), 6, 8)
    program = capture(model)
    rewritten = with_four_axes(program)
    assert rewritten is not program
    assert torch.allclose(rewritten.module()(*model.example_inputs), model.module(*model.example_inputs), atol=ROUNDING)
    export_onnx(model, tmp_path / "m.onnx")
    assert verify(model, tmp_path / "m.onnx").ok


def test_attention_of_four_axes_is_left_alone() -> None:
    program = capture(_model(Attention(4), 6, 8))
    assert with_four_axes(program) is program


def test_a_graph_broken_by_the_exporters_optimizer_is_exported_without_it(tmp_path: Path) -> None:
    model = _model(Clamped(), 3, 8)
    with torch.no_grad():
        broken = torch.onnx.export(capture(model).exported, (), dynamo=True, opset_version=20, verbose=False)
    with pytest.raises(onnx.checker.ValidationError, match="not output of any previous nodes"):
        onnx.checker.check_model(broken.model_proto)  # when this passes, onnxscript has mended it: drop our way round
    export_onnx(model, tmp_path / "m.onnx")
    assert verify(model, tmp_path / "m.onnx").ok
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    made = {name for node in nodes if node.op_type != "Constant" for name in node.output}
    means = [node for node in nodes if node.op_type == "ReduceMean"]
    assert means and all(node.input[1] not in made for node in means), "axes are constants"


def test_equations_are_rewritten_in_lowercase(tmp_path: Path) -> None:
    """TensorRT's parser takes no other letters."""
    model = _model(Letters(), 3, 8)
    export_onnx(model, tmp_path / "m.onnx")
    assert verify(model, tmp_path / "m.onnx").ok
    (equation,) = (
        attribute.s.decode()
        for node in onnx.load(tmp_path / "m.onnx").graph.node
        for attribute in node.attribute
        if attribute.name == "equation"
    )
    assert equation == "abc,adc->abd"
    assert lowercase("ij , jk -> ik") == "ij , jk -> ik", "what is lower-case stays as it is"
    assert lowercase("...Aa->...aA") == "...ab->...ba"
