"""``--dynamic-size``: height and width are dynamic in the file, and its outputs are correct at other sizes than that of
the export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import graph, surgery
from cbsurgeon.checks import verify
from cbsurgeon.checks.cost.auditing import count_file
from cbsurgeon.deploy import export_onnx
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.errors import CaptureError
from cbsurgeon.models.model import Model
from cbsurgeon.verbs.exporting import export_checked

onnx = pytest.importorskip("onnx", reason="files are read back with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="files are run with ONNX Runtime")
pytest.importorskip("onnxscript", reason="torch.onnx needs it")

ROUNDING = 1e-5
"""Other kernels add numbers of about one in another order."""


class Convolutional(nn.Module):
    """Patches, an MLP of 1x1 convolutions on a residual stream, a pooled head; with places, only for one size."""

    def __init__(self, places: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.GroupNorm(1, 16)
        self.up, self.down, self.head = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1), nn.Linear(16, 5)
        self.places = nn.Parameter(torch.randn(1, 16, 8, 8)) if places else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.places is not None:
            x = x + self.places
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(dim=(2, 3)))


def edited(places: bool = False) -> Model:
    torch.manual_seed(0)
    model = Model(Convolutional(places).eval(), (torch.randn(2, 3, 32, 32),))
    return surgery.insert_module(model, surgery.plan(graph.inspect(model), op="cb", layers="all", pos="end"))


def test_sizes_are_open_named_and_right(tmp_path: Path) -> None:
    model = edited()
    made, verdict = export_checked(model, tmp_path / "m.onnx", dynamic_size=True)
    assert made.inputs[0].dims == ("batch", 3, "height", "width") and made.inputs[0].shape(7) == (7, 3, 32, 32)
    assert verdict is not None and verdict.ok and any("64x96" in note for note in verdict.notes)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert onnx_file.read_metadata(made.path)["open_sizes"] == {"height": 32, "width": 32}
    assert verify(made.path, made.path, batches=(3,)).ok, "a file alone runs at the size it was exported at"
    for size in ((32, 32), (40, 72), (20, 96)):
        x = torch.randn(3, 3, *size)
        with torch.no_grad():
            expected = model.module(x)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.allclose(torch.from_numpy(got), expected, atol=ROUNDING)


def test_a_file_of_open_sizes_is_counted_at_the_size_of_its_export(tmp_path: Path) -> None:
    """Multiply-accumulates by hand: 8 x 8 patches of 4 x 4 x 3 pixels, 16 channels, 32 in the MLP, 5 classes."""
    made, _ = export_checked(edited(), tmp_path / "m.onnx", dynamic_size=True)
    found, _ = count_file(made.path, batch=3)
    assert found.uncounted == {}
    assert found.by_operator["conv2d"].flops == 3 * 64 * (16 * 48 + 2 * 16 * 32)
    assert found.by_operator["mm"].flops == 3 * 16 * 5


def test_a_model_of_one_size_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = edited(places=True)
    with pytest.raises(CaptureError, match="position embeddings") as caught:
        export_onnx(model, tmp_path / "m.onnx", dynamic_size=True)
    assert caught.value.code == "CB-CAPTURE-07" and not (tmp_path / "m.onnx").exists()
    words = replace(model, module=nn.Linear(4, 4).eval(), example_inputs=(torch.randn(2, 4),))
    with pytest.raises(CaptureError, match="four axes of images"):
        export_onnx(words, tmp_path / "m.onnx", dynamic_size=True)
