"""What torch.onnx cannot export as it stands, and what we do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cbsurgeon.checks import verify
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.attention import flatten_attention
from cbsurgeon.graph import capture
from cbsurgeon.models.model import Model

onnx = pytest.importorskip("onnx", reason="files are read back with onnx")
pytest.importorskip("onnxscript", reason="torch.onnx needs it")
pytest.importorskip("onnxruntime", reason="files are run with ONNX Runtime")


ROUNDING = 1e-6
"""Attention of five axes and of four may run other kernels: values of about 1, added up in another order."""


class Windows(nn.Module):
    """Attention in windows: ``[batch, windows, heads, tokens, channels]``, five axes."""

    def __init__(self, masked: bool = False, axes: int = 5) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.axes, self.masked = axes, masked

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, 3, 2, 2, 4) if self.axes == 5 else (-1, 6, 2, 4)
        q, k, v = (part.reshape(shape) for part in self.qkv(x).chunk(3, -1))
        mask = torch.tensor([[0.0, -5.0], [-1.0, 0.0]]) if self.masked else None
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).flatten(1)


class Clamped(nn.Module):
    """Two pairs of successive clamps that begin at one tensor, and a mean whose axes the optimizer has to fold."""

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 2).mean(dim=-1, keepdim=True) + x
        first = x.clamp(-1.0, 1.0).clamp(-0.5, 0.5)
        return first + x.clamp(-3.0, 3.0).clamp(-2.0, 2.0)


def _model(module: nn.Module, *shape: int) -> Model:
    return Model(module.eval(), (torch.randn(2, *shape),))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_five_axes(masked: bool, tmp_path: Path) -> None:
    model = _model(Windows(masked), 6, 8)
    program = capture(model)
    flat = flatten_attention(program)
    assert flat is not program
    assert torch.allclose(flat.module()(*model.example_inputs), model.module(*model.example_inputs), atol=ROUNDING)
    export_onnx(model, tmp_path / "m.onnx")
    assert verify(model, tmp_path / "m.onnx").ok


def test_attention_of_four_axes_is_left_alone() -> None:
    program = capture(_model(Windows(axes=4), 6, 8))
    assert flatten_attention(program) is program


def test_what_the_exporters_optimizer_breaks_is_mended(tmp_path: Path) -> None:
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
