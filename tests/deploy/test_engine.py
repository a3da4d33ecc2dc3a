"""Engines are built without a GPU, get a sealed manifest, and are trusted only if built here."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import onnx
import pytest
import torch

from cbsurgeon.deploy import BuildOptions, Export, build_engine, export, export_onnx, open_runtime
from cbsurgeon.deploy.manifest import beside, require_trusted
from cbsurgeon.deploy.tensorrt import package as tensorrt_package
from cbsurgeon.errors import CBSurgeonError, ExportError, InputFileError, MissingPackage, OutputFileError, UsageError
from tests.deploy import networks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx, which builds without a GPU, is not installed",
)


@pytest.fixture(autouse=True, scope="module")
def own_key(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(networks.edited("vit"), tmp_path_factory.mktemp("onnx") / "vit.onnx").path


@pytest.fixture(scope="module")
def engine(model: Path) -> Export:
    return build_engine(model, model.with_suffix(".engine"), options=BuildOptions(batch=(1, 4, 16)))


def test_the_manifest_describes_the_engine(engine: Export, model: Path) -> None:
    document = json.loads(beside(engine.path).read_text())
    assert document["schema"] == "cbsurgeon.engine/1"
    assert document["engine"] == {"name": "vit.engine", "bytes": engine.bytes, "sha256": engine.sha256}
    assert document["onnx"]["sha256"] == export_digest(model)
    assert document["package"]["name"] == "tensorrt_rtx"
    assert document["batch"] == [1, 4, 16]
    assert document["tf32"] is False
    assert document["model"]["recipes"]


def export_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_our_own_engine_is_trusted(engine: Export) -> None:
    assert require_trusted(engine.path)["engine"]["sha256"] == engine.sha256


def test_a_changed_engine_is_refused_even_with_trust(engine: Export, tmp_path: Path) -> None:
    copy = tmp_path / engine.path.name
    copy.write_bytes(engine.path.read_bytes()[:-1] + b"\0")
    beside(copy).write_bytes(beside(engine.path).read_bytes())
    with pytest.raises(InputFileError) as caught:
        require_trusted(copy, trust=True)
    assert caught.value.code == "CB-ENGINE-04"


def test_a_matching_manifest_without_our_seal_is_not_trusted(
    engine: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / engine.path.name
    copy.write_bytes(engine.path.read_bytes())
    with pytest.raises(InputFileError) as caught:
        require_trusted(copy)
    assert caught.value.code == "CB-ENGINE-05"
    beside(copy).write_bytes(beside(engine.path).read_bytes())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(InputFileError) as caught:
        require_trusted(copy)
    assert caught.value.code == "CB-ENGINE-05"
    assert require_trusted(copy, trust=True)


def test_an_edited_manifest_breaks_its_seal(engine: Export, tmp_path: Path) -> None:
    copy = tmp_path / engine.path.name
    copy.write_bytes(engine.path.read_bytes())
    document = json.loads(beside(engine.path).read_text())
    document["package"]["name"] = "tensorrt"
    beside(copy).write_text(json.dumps(document))
    with pytest.raises(InputFileError) as caught:
        require_trusted(copy)
    assert caught.value.code == "CB-ENGINE-05"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the engine would run")
def test_running_without_a_gpu_is_an_error(engine: Export) -> None:
    with pytest.raises(UsageError) as caught:
        open_runtime(engine.path)
    assert caught.value.code == "CB-RUN-03"
    assert "NVIDIA GPU" in caught.value.what


@pytest.mark.thin(2)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_typed_engines_build(name: str, dtype: str, tmp_path: Path) -> None:
    made = export(networks.edited(name), tmp_path / "m.engine", dtype=dtype)
    assert made.dtype == dtype
    assert {path.name for path in tmp_path.iterdir()} == {"m.engine", "m.engine.json"}
    assert {"capture", "export", "build"} <= set(made.seconds)


def test_targets_are_the_builders(model: Path, tmp_path: Path) -> None:
    made = build_engine(model, tmp_path / "m.engine", options=BuildOptions(targets=("SM86", "SM89")))
    assert json.loads(beside(made.path).read_text())["targets"] == ["SM86", "SM89"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (BuildOptions(targets=("SM90",)), "CB-ENGINE-07"),
        (BuildOptions(batch=(4, 2, 8)), "CB-ENGINE-06"),
        (BuildOptions(batch=(0, 2, 8)), "CB-ENGINE-06"),
        (BuildOptions(batch=(1, 2, 1 << 31)), "CB-ENGINE-06"),
        (BuildOptions(batch=(1, 2, (1 << 32) + 8)), "CB-ENGINE-06"),
        (BuildOptions(timing_cache=Path("cache.bin")), "CB-ENGINE-08"),
        (BuildOptions(package="tensorflow"), "CB-ENGINE-01"),
    ],
)
def test_wrong_options(options: BuildOptions, code: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build_engine(model, tmp_path / "m.engine", options=options)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_export_builds_an_engine_from_an_onnx_file(model: Path, tmp_path: Path) -> None:
    made = export(model, tmp_path / "m.engine", batch=(1, 2, 4))
    assert made.format == "engine" and made.batch == (1, 2, 4)
    assert json.loads(beside(made.path).read_text())["onnx"]["sha256"] == export_digest(model)


@pytest.mark.parametrize(
    ("target", "options", "code"),
    [("m.engine", {"dtype": "float16"}, "CB-EXPORT-11"), ("m.pt2", {}, "CB-EXPORT-12"), ("m.onnx", {}, "CB-EXPORT-12")],
)
def test_formats_and_options_refused_for_an_onnx_file(
    model: Path, tmp_path: Path, target: str, options: dict[str, str], code: str
) -> None:
    with pytest.raises(UsageError, match=code):
        export(model, tmp_path / target, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_builder_names_the_extra(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_package, "_import", lambda name: None)
    with pytest.raises(MissingPackage) as caught:
        build_engine(model, tmp_path / "m.engine")
    assert "cbsurgeon[tensorrt-rtx]" in caught.value.do
    assert list(tmp_path.iterdir()) == []


def test_a_parser_error_names_node_and_block(tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy"]
    node = onnx.helper.make_node("Wonder", ["x"], ["y"], name="node_wonder", domain="elsewhere")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'blocks.3', 'blocks.3.mlp', 'wonder']")
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("elsewhere", 1)]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(ExportError) as caught:
        build_engine(tmp_path / "m.onnx", tmp_path / "m.engine")
    assert caught.value.code == "CB-ENGINE-09"
    assert caught.value.where == "node node_wonder (Wonder), in blocks.3.mlp"
    assert not (tmp_path / "m.engine").exists()


def test_an_interrupt_stops_the_build(model: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def interrupt(message: str) -> None:
        said.append(message)
        if "cloning" in message:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ExportError) as caught:
        build_engine(model, tmp_path / "m.engine", progress=interrupt)
    assert caught.value.code == "CB-ENGINE-11"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before
    assert any("%" in line for line in said)


def test_an_error_of_the_progress_callback_stops_the_build(model: Path, tmp_path: Path) -> None:
    def fail(message: str) -> None:
        if "cloning" in message:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        build_engine(model, tmp_path / "m.engine", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_neither_file_nor_manifest_is_overwritten(model: Path, engine: Export, tmp_path: Path) -> None:
    with pytest.raises(OutputFileError):
        build_engine(model, engine.path)
    beside(tmp_path / "m.engine").write_text("mine")
    with pytest.raises(CBSurgeonError):
        build_engine(model, tmp_path / "m.engine")
    assert beside(tmp_path / "m.engine").read_text() == "mine"
    assert not (tmp_path / "m.engine").exists()


def test_a_damaged_manifest_and_an_absent_engine(engine: Export, tmp_path: Path) -> None:
    copy = tmp_path / engine.path.name
    with pytest.raises(InputFileError) as caught:
        require_trusted(copy)
    assert caught.value.code == "CB-ENGINE-03"
    copy.write_bytes(engine.path.read_bytes())
    for text in ("{", '{"schema": "another/1"}'):
        beside(copy).write_text(text)
        with pytest.raises(InputFileError) as caught:
            require_trusted(copy, trust=True)
        assert caught.value.code == "CB-ENGINE-02"


def test_a_build_that_fails_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx

    class Failing:
        def __init__(self, log: object) -> None:
            raise RuntimeError("no memory")

    monkeypatch.setattr(tensorrt_rtx, "Builder", Failing)
    with pytest.raises(ExportError) as caught:
        build_engine(model, tmp_path / "m.engine")
    assert caught.value.code == "CB-ENGINE-10"
    assert list(tmp_path.iterdir()) == []


def test_two_dynamic_dimensions_are_refused(tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, 1, ["batch", "length"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(ExportError) as caught:
        build_engine(tmp_path / "m.onnx", tmp_path / "m.engine")
    assert caught.value.code == "CB-ENGINE-10"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
