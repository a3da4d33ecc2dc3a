"""Every runtime computes the same outputs for the same inputs."""

from __future__ import annotations

import pickle
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cbsurgeon.deploy import RuntimeSpec, export_onnx, open_runtime, open_spec, stage
from cbsurgeon.deploy.runtimes.onnx_session import check_placement
from cbsurgeon.deploy.runtimes.torch_runtimes import EagerRuntime
from cbsurgeon.errors import CheckFailed, InputFileError, UsageError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import BACKENDS
from tests.deploy import networks

CPU_BACKENDS = ("eager", "program", "folded", "onnxruntime")

# A few roundings of 6e-8 each, in three blocks.
FLOAT32_RTOL = 2e-5


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_backends_agree(name: str) -> None:
    model = networks.plain(name)
    inputs = capture(model).with_batch(3)
    answers = {}
    for backend in CPU_BACKENDS:
        with open_runtime(model, backend) as runtime:
            answers[backend] = runtime.run(inputs)
            assert runtime.backend == backend
            assert [port.name for port in runtime.inputs] == list(inputs)
    for backend, outputs in answers.items():
        assert list(outputs) == list(answers["eager"]), backend
        for key, value in outputs.items():
            expected = answers["eager"][key]
            assert (value - expected).abs().max() <= FLOAT32_RTOL * expected.abs().max(), (backend, key)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, pixels: torch.Tensor, scale: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": self.fc(pixels) * scale["by"], "raw": pixels}


def small() -> Model:
    torch.manual_seed(0)
    return Model(Small().eval(), (torch.randn(2, 4), {"by": torch.randn(2, 1)}))


def test_eager_names_inputs_and_outputs_as_capture_does() -> None:
    model = small()
    program = capture(model)
    with open_runtime(model) as runtime:
        assert tuple(port.name for port in runtime.inputs) == program.input_names
        assert runtime.output_names == program.output_names
        answer = runtime.run(program.example)
    for name, value in program.run(program.example).items():
        assert torch.equal(answer[name], value)


@pytest.mark.slow
def test_compiled_agrees_with_eager() -> None:
    model = small()
    with open_runtime(model) as eager, open_runtime(model, "compile") as compiled:
        inputs = capture(model).with_batch(5)
        for name, value in eager.run(inputs).items():
            assert torch.allclose(compiled.run(inputs)[name], value, rtol=FLOAT32_RTOL, atol=FLOAT32_RTOL)


def test_prepared_calls_compute_without_conversions() -> None:
    with open_runtime(small(), "onnxruntime") as runtime:
        call = runtime.prepare(capture(small()).example)
        first, second = call(), call()
        runtime.synchronize()
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_a_specification_can_be_sent_to_another_process() -> None:
    spec = pickle.loads(pickle.dumps(RuntimeSpec(networks.plain("vit"), "eager")))
    with open_spec(spec) as runtime:
        assert runtime.run(runtime_inputs(runtime))["output"].shape == (2, networks.CLASSES)


def runtime_inputs(runtime) -> dict[str, torch.Tensor]:
    return {port.name: torch.zeros([2 if dim == "batch" else dim for dim in port.dims]) for port in runtime.inputs}


def test_staging_exports_once(tmp_path: Path) -> None:
    spec = stage(RuntimeSpec(small(), "onnxruntime"), tmp_path)
    assert spec.target == tmp_path / "model.onnx"
    assert stage(spec, tmp_path) is spec
    with open_spec(pickle.loads(pickle.dumps(spec))) as runtime:
        assert set(runtime.output_names) == {"logits", "raw"}


def test_a_temporary_export_goes_with_its_runtime() -> None:
    runtime = open_runtime(small(), "onnxruntime")
    path = runtime.path
    assert path.exists()
    runtime.close()
    assert not path.exists()


def test_bfloat16_is_rounded_after_every_operator(tmp_path: Path) -> None:
    model = networks.edited("vit")
    made = export_onnx(model, tmp_path / "m.onnx", dtype="bfloat16")
    inputs = networks.program("vit").with_batch(2)
    exact = networks.program("vit").run(inputs)["output"]
    with open_runtime(made.path) as runtime:
        assert runtime.dtype == "bfloat16"
        assert runtime.notes
        answer = runtime.run(inputs)["output"]
    assert answer.dtype == torch.bfloat16
    error = (answer.float() - exact).abs().max() / exact.abs().max()
    # bfloat16 has steps of 2^-8: rounding everywhere costs more than rounding the answer alone, and not ten steps.
    assert 2**-9 < error < 10 * 2**-8


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"backend": "paper"}, "CB-RUN-09"),
        ({"backend": "tensorrt", "device": "cuda"}, "CB-RUN-03"),
        ({"device": "cuda"}, "CB-RUN-03"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: these would run")
def test_refusals(arguments: dict, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_runtime(small(), **arguments)
    assert caught.value.code == code


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with open_runtime(small()) as runtime:
        with pytest.raises(UsageError) as caught:
            runtime.run({"pixels": torch.randn(2, 4)})
        assert caught.value.code == "CB-RUN-01"
        assert "scale_by" in caught.value.why
        with pytest.raises(UsageError) as caught:
            runtime.run({"pixels": torch.randn(2, 5), "scale_by": torch.randn(2, 1)})
        assert caught.value.code == "CB-RUN-02"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.complex64])
def test_numbers_of_another_kind_are_refused(dtype: torch.dtype) -> None:
    with open_runtime(small()) as runtime:
        with pytest.raises(UsageError) as caught:
            runtime.run({"pixels": torch.ones(2, 4, dtype=dtype), "scale_by": torch.randn(2, 1)})
        assert caught.value.code == "CB-RUN-13"
        runtime.run({"pixels": torch.ones(2, 4, dtype=torch.float64), "scale_by": torch.randn(2, 1)})


def test_a_program_has_no_eager_form() -> None:
    with pytest.raises(UsageError) as caught:
        open_runtime(capture(small()), "eager")
    assert caught.value.code == "CB-RUN-10"


def test_a_file_only_runs_in_its_runtime(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with pytest.raises(UsageError) as caught:
        open_runtime(tmp_path / "m.onnx", "eager")
    assert caught.value.code == "CB-RUN-10"
    with pytest.raises(InputFileError) as caught_file:
        open_runtime(tmp_path / "m.onnx")
    assert caught_file.value.code == "CB-ONNX-02"


class _Node:
    def __init__(self, name: str, op_type: str) -> None:
        self.name, self.op_type = name, op_type


class _Part:
    def __init__(self, ep_name: str, *nodes: _Node) -> None:
        self.ep_name, self.nodes = ep_name, nodes

    def get_nodes(self) -> tuple[_Node, ...]:
        return self.nodes


class _Session:
    """What ONNX Runtime reports of a session; a real CUDA session needs a GPU."""

    def __init__(self, *parts: _Part, providers: tuple[str, ...] = ("CUDAExecutionProvider",)) -> None:
        self.parts, self.providers = parts, providers

    def get_providers(self) -> tuple[str, ...]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> tuple[_Part, ...]:
        return self.parts


CUDA = _Part("CUDAExecutionProvider", _Node("a", "MatMul"))


def test_shape_arithmetic_may_stay_on_the_cpu() -> None:
    session = _Session(CUDA, _Part("CPUExecutionProvider", _Node("s", "Shape"), _Node("g", "Gather")))
    check_placement(session, "CUDAExecutionProvider", Path("m.onnx"))


@pytest.mark.parametrize(
    "session",
    [
        _Session(CUDA, _Part("CPUExecutionProvider", _Node("layer", "LayerNormalization"))),
        _Session(providers=("CPUExecutionProvider",)),
    ],
)
def test_a_silent_fall_back_is_an_error(session: _Session) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_placement(session, "CUDAExecutionProvider", Path("m.onnx"))
    assert caught.value.code == "CB-RUN-07"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
@pytest.mark.parametrize("backend", ["eager", "program", "folded", "onnxruntime"])
def test_cuda_agrees_with_the_cpu(backend: str) -> None:
    model = small()
    inputs = capture(model).with_batch(3)
    with open_runtime(model) as cpu, open_runtime(model, backend, "cuda") as gpu:
        for name, value in cpu.run(inputs).items():
            assert torch.allclose(gpu.run(inputs)[name].cpu(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
def test_onnx_runtime_replays_what_it_recorded(tmp_path: Path) -> None:
    path = export_onnx(small(), tmp_path / "m.onnx").path
    with open_runtime(path, device="cuda", cuda_graph=True) as runtime:
        call = runtime.prepare(capture(small()).with_batch(3))
        call()
        assert not runtime.notes


def test_every_backend_is_listed() -> None:
    assert set(CPU_BACKENDS) < set(BACKENDS)


def test_a_file_that_its_runtime_cannot_run(tmp_path: Path) -> None:
    """Well formed for onnx, with an operator no runtime has."""
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], domain="of.nobody")
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("of.nobody", 1)]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(InputFileError) as caught:
        open_runtime(tmp_path / "m.onnx")
    assert caught.value.code == "CB-RUN-05"
    assert "Unheard" in caught.value.why


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_a_runtime_without_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, and the package that is made for the CPU."""
    path = export_onnx(small(), tmp_path / "m.onnx").path
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError) as caught:
        open_runtime(path, device="cuda")
    assert caught.value.code == "CB-RUN-06"
    assert "CPUExecutionProvider" in caught.value.why


def test_a_program_is_not_opened_as_a_module() -> None:
    with pytest.raises(UsageError) as caught:
        EagerRuntime(Model(None, program=capture(small()).exported))
    assert caught.value.code == "CB-RUN-04"
