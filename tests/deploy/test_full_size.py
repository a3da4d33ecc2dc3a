"""Models of full size: 16-bit files and engines of ViT-S and Swin-T, and a file above the limit of protocol buffers."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from cbsurgeon import graph, surgery
from cbsurgeon.checks import verify
from cbsurgeon.deploy import build_engine, export_onnx, open_runtime
from cbsurgeon.deploy.onnx.file import PROTOBUF_LIMIT
from cbsurgeon.models.model import Model

pytestmark = pytest.mark.slow

# bfloat16 needs operator set 22: Conv takes it from there on.
OPSETS = {"float16": 20, "bfloat16": 22}

# ONNX Runtime and PyTorch multiply 2^13 numbers in other orders; a sum of that many rounds by this share at most.
WIDE_RTOL = 1e-4


@cache
def edited(name: str) -> Model:
    torch.manual_seed(0)
    model = Model(timm.create_model(name).eval(), (torch.randn(2, 3, 224, 224),))
    return surgery.insert_module(model, surgery.plan(graph.inspect(model), layers="upper", pos="end"))


@pytest.mark.parametrize("dtype", list(OPSETS))
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_typed_file_is_within_the_policy_and_builds(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export_onnx(edited(name), tmp_path / "m.onnx", dtype=dtype)
    assert (made.dtype, made.opset) == (dtype, OPSETS[dtype])
    found = verify(edited(name), made.path, batches=(2,))
    assert found.ok, str(found)
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("parity holds; tensorrt_rtx, which builds without a GPU, is not installed")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    typed = export_onnx(edited(name), tmp_path / "typed.onnx", dtype=dtype, for_tensorrt=True)
    engine = build_engine(typed.path, tmp_path / "m.engine")
    assert engine.dtype == dtype
    assert engine.bytes > 0


def test_weights_above_two_gigabytes_lie_beside_the_file(tmp_path: Path) -> None:
    """External data are used because of the size alone, without an option; the other functions work with the path."""
    width, layers = 2**13, 9
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers))).eval()
    made = export_onnx(Model(module, (torch.randn(2, width),)), tmp_path / "m.onnx")
    try:
        assert made.bytes > PROTOBUF_LIMIT
        assert made.external_data == tmp_path / "m.onnx.data"
        assert made.path.stat().st_size < 2**20
        inputs = torch.randn(3, width)
        with torch.no_grad():
            expected = module(inputs)
        with open_runtime(made.path) as runtime:
            found = runtime.run({runtime.inputs[0].name: inputs})[made.outputs[0].name]
        assert (found - expected).abs().max() <= WIDE_RTOL * expected.abs().max()
    finally:
        for path in tmp_path.iterdir():
            path.unlink()
