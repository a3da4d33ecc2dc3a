"""An exported ONNX file: dynamic batch, named inputs, checked, with metadata, written atomically."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from cbsurgeon.deploy import Export, export, export_onnx, open_runtime, read_metadata
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx.metadata import METADATA_KEY
from cbsurgeon.errors import CaptureError, ExportError, InputFileError, MissingPackage, OutputFileError, UsageError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.deploy import networks

BATCHES = (1, 2, 7, 16)

# ONNX Runtime against PyTorch in float32 on these shallow networks; both are a few roundings of 6e-8 from exact.
FLOAT32_RTOL = 2e-5


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_onnx(networks.edited("vit"), tmp_path_factory.mktemp("export") / "vit.onnx")


def test_batch_is_dynamic_in_the_file_and_in_use(exported: Export) -> None:
    assert exported.inputs[0].dims == ("batch", 3, 64, 64)
    assert exported.outputs[0].dims == ("batch", networks.CLASSES)
    program = networks.program("vit")
    with open_runtime(exported.path) as runtime:
        for batch in BATCHES:
            inputs = program.with_batch(batch)
            ours, theirs = runtime.run(inputs), program.run(inputs)
            for name in program.output_names:
                scale = theirs[name].abs().max()
                assert ours[name].shape[0] == batch
                assert (ours[name] - theirs[name]).abs().max() <= FLOAT32_RTOL * scale


def test_names_are_the_programs(exported: Export) -> None:
    program = networks.program("vit")
    assert [port.name for port in exported.inputs] == list(program.input_names)
    assert [port.name for port in exported.outputs] == list(program.output_names)


def test_no_dim_keeps_the_exporters_symbol(exported: Export) -> None:
    proto = onnx.load(exported.path)
    values = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    symbols = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param}
    assert all("batch" in symbol or not symbol.startswith("s") for symbol in symbols), symbols


def test_the_file_passes_every_check(exported: Export) -> None:
    onnx.checker.check_model(str(exported.path), full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(exported.path), check_type=True, strict_mode=True)
    assert exported.opset == 20


def test_metadata_says_what_was_inserted_where(exported: Export) -> None:
    found = read_metadata(exported.path)
    assert found is not None
    assert found["schema"] == "cbsurgeon.onnx/1"
    assert found["recipes"] == [json.loads(json.dumps(dict(recipe))) for recipe in networks.edited("vit").recipes]
    assert len(found["sites"]) == len(exported.sites) == 2


def test_no_path_of_this_machine_is_in_the_file(exported: Export) -> None:
    content = exported.path.read_bytes()
    for path in (str(Path(torch.__file__).parent), str(Path(__file__).parent)):
        assert path.encode() not in content


def test_a_file_of_someone_else_has_no_metadata(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "m.onnx")
    assert read_metadata(tmp_path / "m.onnx") is None


def test_result_is_printable_and_json(exported: Export) -> None:
    document = json.loads(json.dumps(exported.to_dict()))
    assert document["schema"] == "cbsurgeon.export/1"
    assert document["inputs"][0] == {"name": "x", "dtype": "float32", "dims": ["batch", 3, 64, 64]}
    assert "folded 2 of 2" in str(exported)


def test_opset_23_has_attention_as_one_operator(tmp_path: Path) -> None:
    export_onnx(networks.edited("vit"), tmp_path / "m.onnx", opset=23)
    assert "Attention" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


@pytest.mark.parametrize("link", ["hard", "symbolic", "outside"])
def test_external_data_that_is_another_file_is_not_read(link: str, tmp_path: Path) -> None:
    """A link in the place of the weights makes any file of the user's the weights of the model."""
    made = export_onnx(networks.edited("vit"), tmp_path / "m.onnx", external_data=True)
    assert made.external_data is not None
    (tmp_path / "secret").mkdir()
    secret = made.external_data.rename(tmp_path / "secret" / "x")
    if link == "hard":
        os.link(secret, made.external_data)
    elif link == "symbolic":
        made.external_data.symlink_to(secret)
    else:
        made.path.write_bytes(made.path.read_bytes().replace(b"m.onnx.data", b"../secret/x"))
    with pytest.raises(InputFileError, match="CB-ONNX-05"):
        open_runtime(made.path)
    with pytest.raises(InputFileError, match="CB-ONNX-05"):
        read_metadata(made.path)


def test_external_data_is_written_next_to_the_file_and_runs(tmp_path: Path) -> None:
    made = export_onnx(networks.edited("vit"), tmp_path / "m.onnx", external_data=True)
    assert made.external_data == tmp_path / "m.onnx.data"
    assert made.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert made.path.stat().st_size < made.external_data.stat().st_size
    with open_runtime(made.path) as runtime:
        assert runtime.run(networks.program("vit").example)["output"].shape == (2, networks.CLASSES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_typed_export_accumulates_the_mean_in_float32(dtype: str, tmp_path: Path) -> None:
    made = export_onnx(networks.edited("swin"), tmp_path / "m.onnx", dtype=dtype)
    assert {port.dtype for port in (*made.inputs, *made.outputs)} == {dtype}
    graph = onnx.load(tmp_path / "m.onnx").graph
    producer = {output: node for node in graph.node for output in node.output}
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    assert len(means) >= len(made.sites) > 0
    for mean in means:
        cast = producer[mean.input[0]]
        assert cast.op_type == "Cast"
        assert cast.attribute[0].i == onnx.TensorProto.FLOAT


def test_typed_export_keeps_the_batch_dynamic(tmp_path: Path) -> None:
    made = export_onnx(networks.edited("swin"), tmp_path / "m.onnx", dtype="float16")
    with open_runtime(made.path) as runtime:
        for batch in BATCHES:
            assert runtime.run(networks.program("swin").with_batch(batch))["output"].shape[0] == batch


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_existing_file_is_kept(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_text("mine")
    with pytest.raises(OutputFileError):
        export(networks.edited("vit"), path)
    assert path.read_text() == "mine"


def test_no_file_is_left_if_the_exporter_fails(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.odd = OddPart()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(self.inner(x))

    class OddPart(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ExportError) as caught:
        export_onnx(Model(Odd().eval(), (torch.randn(2, 4),)), tmp_path / "m.onnx")
    assert caught.value.code == "CB-EXPORT-03"
    assert "bessel_j0" in caught.value.where
    assert "odd" in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_if_the_checker_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        assert path.exists()
        raise ValueError("no")

    monkeypatch.setattr(onnx_file, "check", refuse)
    with pytest.raises(ExportError) as caught:
        export_onnx(Model(nn.Linear(4, 4).eval(), (torch.randn(2, 4),)), tmp_path / "m.onnx")
    assert caught.value.code == "CB-EXPORT-04"
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_if_the_batch_is_not_dynamic(tmp_path: Path) -> None:
    program = capture(Model(nn.Linear(4, 4).eval(), (torch.randn(2, 4),)))
    wrong = dataclasses.replace(program, batch_axes={program.input_names[0]: 1})
    with pytest.raises(ExportError) as caught:
        export_onnx(Model(nn.Linear(4, 4).eval()), tmp_path / "m.onnx", program=wrong)
    assert caught.value.code == "CB-EXPORT-05"
    assert list(tmp_path.iterdir()) == []


def test_damaged_metadata_is_an_error(tmp_path: Path) -> None:
    value = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    for text in ("{", '{"schema": "another/1"}'):
        proto = onnx.helper.make_model(graph)
        proto.metadata_props.add(key=METADATA_KEY, value=text)
        onnx.save(proto, tmp_path / "m.onnx")
        with pytest.raises(InputFileError) as caught:
            read_metadata(tmp_path / "m.onnx")
        assert caught.value.code == "CB-ONNX-03"


def test_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError):
        export(Model(nn.Linear(4, 4).train(), (torch.randn(2, 4),)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [({"opset": 7}, "CB-EXPORT-01"), ({"dtype": "int8"}, "CB-EXPORT-02"), ({"name": "m.tflite"}, "CB-EXPORT-07")],
)
def test_wrong_arguments(arguments: dict, code: str, tmp_path: Path) -> None:
    path = tmp_path / arguments.pop("name", "m.onnx")
    with pytest.raises(UsageError) as caught:
        export(networks.edited("vit"), path, **arguments)
    assert caught.value.code == code


def test_damaged_files(tmp_path: Path, exported: Export) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.path.read_bytes()[:5000])
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    for path, code in ((broken, "CB-ONNX-02"), (empty, "CB-ONNX-02"), (tmp_path / "none.onnx", "CB-ONNX-01")):
        with pytest.raises(InputFileError) as caught:
            read_metadata(path)
        assert caught.value.code == code


def test_an_old_onnx_is_refused(monkeypatch: pytest.MonkeyPatch, exported: Export) -> None:
    monkeypatch.setattr(onnx, "__version__", "1.20.3")
    with pytest.raises(MissingPackage) as caught:
        read_metadata(exported.path)
    assert caught.value.code == "CB-MISSING-02"


def test_exporters_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    export_onnx(networks.edited("vit"), tmp_path / "m.onnx", progress=said.append)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert any("ONNX" in line for line in said)


def test_a_fresh_process_reads_the_same(exported: Export, tmp_path: Path) -> None:
    inputs = networks.program("vit").with_batch(2)
    torch.save(inputs, tmp_path / "inputs.pt")
    script = (
        "import sys, torch; from cbsurgeon.deploy import open_runtime\n"
        "inputs = torch.load(sys.argv[2], weights_only=True)\n"
        "print(float(open_runtime(sys.argv[1]).run(inputs)['output'].double().sum()))"
    )
    command = [sys.executable, "-c", script, str(exported.path), str(tmp_path / "inputs.pt")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    with open_runtime(exported.path) as runtime:
        assert float(answer.stdout) == pytest.approx(float(runtime.run(inputs)["output"].double().sum()), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 8])
def test_means_written_as_products_are_means(batch: int, tmp_path: Path) -> None:
    model, program = networks.edited("vit"), networks.program("vit")
    fast = export_onnx(model, tmp_path / "fast.onnx")
    plain = export_onnx(model, tmp_path / "plain.onnx", for_tensorrt=True)
    counts = [[node.op_type for node in onnx.load(made.path).graph.node].count("ReduceMean") for made in (fast, plain)]
    assert counts == [0, 2]
    inputs = program.with_batch(batch)
    expected = program.run(inputs)["output"]
    for made in (fast, plain):
        with open_runtime(made.path) as runtime:
            gap = (runtime.run(inputs)["output"] - expected).abs().max()
        assert gap <= FLOAT32_RTOL * expected.abs().max()


class Spectrum(nn.Module):
    """A Fourier transform, which has no bfloat16 form."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(self.fc(x)).real


def test_a_model_without_a_typed_form(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(Model(Spectrum().eval(), (torch.randn(2, 8),)), tmp_path / "m.onnx", dtype="bfloat16")
    assert caught.value.code == "CB-EXPORT-06"
    assert "fft" in caught.value.where
    assert list(tmp_path.iterdir()) == []
