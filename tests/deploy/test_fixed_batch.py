"""A file for one batch size: its metadata, its constants, and how the other verbs treat it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from cbsurgeon.checks import bench, verify
from cbsurgeon.deploy import export, export_onnx
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.graph import inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_program, plan
from tests.deploy import networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fixed")


@pytest.fixture(scope="module")
def four(folder: Path) -> Path:
    return export(networks.edited("vit"), folder / "four.onnx", batch=4).path


@pytest.fixture(scope="module")
def open_batch(folder: Path) -> Path:
    return export(networks.edited("vit"), folder / "open.onnx").path


@pytest.mark.parametrize("name", ["vit", "swin", "bert"])
def test_every_size_in_the_file_is_a_number(name: str, tmp_path: Path) -> None:
    made = export_onnx(networks.edited(name), tmp_path / "m.onnx", batch=3)
    assert all(isinstance(size, int) for port in (*made.inputs, *made.outputs) for size in port.dims)
    assert {port.dims[0] for port in (*made.inputs, *made.outputs)} == {3}
    graph = onnx.load(made.path).graph
    assert not [node.name for node in graph.node if node.op_type == "Shape"], "nothing asks for the batch any more"
    assert not any(dim.dim_param for value in graph.value_info for dim in value.type.tensor_type.shape.dim)


def test_it_computes_what_the_file_with_a_dynamic_batch_does(four: Path, open_batch: Path) -> None:
    x = {"x": torch.randn(4, 3, 64, 64).numpy()}
    found, wanted = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, x)[0]
        for path in (four, open_batch)
    )
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)


def test_it_is_compared_at_its_own_batch(four: Path) -> None:
    found = verify(networks.edited("vit"), four)
    assert found.ok, str(found)
    assert found.batches == (4,)
    assert any("only at batch 4" in note for note in found.notes)


def test_two_files_with_different_fixed_batches_are_refused(four: Path, folder: Path) -> None:
    two = export_onnx(networks.edited("vit"), folder / "two.onnx", batch=2).path
    with pytest.raises(CheckFailed) as caught:
        verify(four, two)
    assert caught.value.code == "CB-VERIFY-05"


@pytest.mark.parametrize("processes", [1, 2], ids=["here", "fresh"])
def test_timing_asks_for_its_batch(processes: int, four: Path, open_batch: Path) -> None:
    with pytest.raises(UsageError) as caught:
        bench(open_batch, four, backend="onnxruntime", budget=4, processes=processes)
    assert caught.value.code == "CB-BENCH-03"
    assert "--batch 4" in caught.value.do
    assert bench(open_batch, four, backend="onnxruntime", batch=4, budget=4, processes=1).pairs > 0


def test_a_program_of_fixed_batch_keeps_it(tmp_path: Path) -> None:
    """A program that was exported without a dynamic batch is edited, exported and compared at its batch size."""
    plain = networks.plain("vit")
    exported = torch.export.export(plain.module, plain.example_inputs, strict=False)
    fixed = Model(None, program=exported)
    edited = insert_program(fixed, plan(inspect(fixed), layers="upper", pos="end"))
    assert not capture(edited).batch_axes
    with pytest.raises(UsageError) as caught:
        export_onnx(edited, tmp_path / "m.onnx", batch=4)
    assert caught.value.code == "CB-EXPORT-10"
    made = export_onnx(edited, tmp_path / "m.onnx")
    assert made.inputs[0].dims == (2, 3, 64, 64)
    assert {site.form for site in made.sites} == {"last-projection"}
    found = verify(edited, made.path)
    assert found.ok, str(found)
    assert found.batches == (2,)


@pytest.mark.parametrize(("name", "batch", "code"), [("m.onnx", 0, "CB-EXPORT-08"), ("m.pt2", 4, "CB-EXPORT-09")])
def test_what_cannot_be_fixed(name: str, batch: int, code: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export(networks.edited("vit"), tmp_path / name, batch=batch)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_an_engine_for_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = export(networks.edited("vit"), tmp_path / "m.engine", batch=4)
    assert made.batch == (4, 4, 4)
    assert made.inputs[0].dims == (4, 3, 64, 64)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_an_engine_from_it_has_its_batch(four: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its batch is fixed to 4"):
        export(four, tmp_path / "eight.engine", batch=8)
    assert not (tmp_path / "eight.engine").exists()
    made = export(four, tmp_path / "four.engine")
    assert made.batch == (4, 4, 4)
    assert json.loads((tmp_path / "four.engine.json").read_text())["batch"] == [4, 4, 4]
