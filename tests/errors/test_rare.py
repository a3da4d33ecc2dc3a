"""Errors that need an unusual model or device: provoked with a network or a binding made for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, fx, nn

import cbsurgeon as cbs
from cbsurgeon.deploy.runtimes import tensorrt_runtime
from cbsurgeon.deploy.runtimes.runtime import require_device
from cbsurgeon.deploy.runtimes.tensorrt_runtime import TensorRTRuntime
from cbsurgeon.deploy.tensorrt import package
from cbsurgeon.deploy.tensorrt.package import TensorRT
from cbsurgeon.errors import InputFileError, MissingPackage, SurgeryError, UsageError
from cbsurgeon.graph.editing import ProgramEditor


class Bypassing(nn.Module):
    """A residual MLP that calls ``forward`` of its down projection directly, but not while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.up(self.norm(x)))
        down = self.down if torch.compiler.is_exporting() else self.down.forward
        return x + down(hidden)


def test_an_operator_that_does_not_run_is_taken_out_again() -> None:
    module = Bypassing().eval()
    model = cbs.Model(module, (torch.randn(2, 5, 8),))
    recipe = cbs.plan(cbs.inspect(model), layers="all", pos="end")
    with pytest.raises(SurgeryError, match="0 times instead of 1") as caught:
        cbs.insert(model, recipe)
    assert caught.value.code == "CB-SURGERY-04"
    by_program = cbs.insert(model, recipe, on="program")  # the remedy the message names
    x = torch.randn(2, 5, 8)
    branch = module(x) - x
    wanted = x + (branch + branch.mean(1, keepdim=True)) / 2
    assert torch.allclose(by_program.program.module()(x), wanted, atol=1e-6)


def test_a_graph_without_values_is_refused() -> None:
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    editor = object.__new__(ProgramEditor)
    editor.graph = graph
    with pytest.raises(SurgeryError) as caught:
        editor._fake_mode()
    assert caught.value.code == "CB-SURGERY-05"


def binding(**members: object) -> TensorRT:
    """A TensorRT package with only the attributes that are used here."""
    return TensorRT("tensorrt", SimpleNamespace(__version__="0", **members))


def test_an_engine_the_runtime_returns_nothing_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's binding answers with ``None`` and a line in its log; it does not raise."""
    monkeypatch.setattr(tensorrt_runtime, "logger", lambda trt: SimpleNamespace(errors=["version mismatch"]))
    refusing = SimpleNamespace(deserialize_cuda_engine=lambda data: None)
    file = tmp_path / "model.engine"
    file.write_bytes(b"of another version")
    with pytest.raises(InputFileError, match="version mismatch") as caught:
        tensorrt_runtime._deserialize(binding(Runtime=lambda log: refusing), file)
    assert caught.value.code == "CB-ENGINE-12" and str(file) in str(caught.value)


def test_a_shape_outside_the_profile_names_the_profile() -> None:
    """TensorRT's context answers with ``False``; it does not raise."""
    runtime = object.__new__(TensorRTRuntime)
    runtime.name = "model.engine"
    runtime.context = SimpleNamespace(set_input_shape=lambda name, shape: False)
    runtime.engine = SimpleNamespace(get_tensor_profile_shape=lambda name, number: ((1, 3), (8, 3), (64, 3)))
    with pytest.raises(UsageError, match=r"built for \[1, 3\] to \[64, 3\], tuned for \[8, 3\]") as caught:
        runtime._bind({"x": torch.zeros(65, 3)})
    assert caught.value.code == "CB-RUN-08"


def test_a_code_that_does_not_exist() -> None:
    with pytest.raises(UsageError) as caught:
        cbs.explain("no code")
    assert caught.value.code == "CB-EXPLAIN-01"


@pytest.mark.parametrize(("device", "near"), [("gpu", "cuda"), ("cpu0", "cpu"), ("cuda:first", "cuda")])
def test_a_device_that_does_not_exist(device: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_device(device)
    assert caught.value.code == "CB-RUN-11" and caught.value.do == f"did you mean --device {near}?"
    require_device("cuda:1")


def test_the_error_on_macos_names_systems_that_build_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_import", lambda name: None)
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(MissingPackage, match="not available on macOS") as caught:
        package.find()
    assert caught.value.code == "CB-MISSING-03" and caught.value.exit_code == 3
    assert "cbsurgeon export model.onnx -o model.engine" in caught.value.do
