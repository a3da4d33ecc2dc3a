"""The choice of the clock, and timing on a CUDA device if there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cbsurgeon.checks.latency import benchmark as latency_bench
from cbsurgeon.checks.latency import child as latency_child
from cbsurgeon.checks.latency import device as latency_device
from cbsurgeon.checks.latency.benchmark import bench, device_for
from cbsurgeon.checks.latency.device import EVENTS, HOST, clock_of, memory_in_use, timer_of
from cbsurgeon.checks.latency.sampling import Timed
from cbsurgeon.deploy import RuntimeSpec, open_runtime
from cbsurgeon.deploy.runtimes import torch_runtimes
from cbsurgeon.models.model import Model, Provenance

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU on this machine")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


def tiny() -> Model:
    return Model(Tiny().eval(), (torch.randn(2, 64),), Provenance("tiny"))


class Streamed:
    """A runtime with only the attributes that the choice of a clock needs."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


def test_a_known_stream_is_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def timer(call: object, stream: object) -> Callable[[int], float]:
        asked.append(stream)
        return lambda calls: 0.0

    monkeypatch.setattr(latency_device, "device_timer", timer)
    on_device, elsewhere = Streamed("a stream"), Streamed(None)
    assert timer_of(on_device, lambda: None)(3) == 0.0  # type: ignore[arg-type]
    assert asked == ["a stream"] and clock_of(on_device) == EVENTS  # type: ignore[arg-type]
    assert timer_of(elsewhere, lambda: None)(3) > 0.0  # type: ignore[arg-type]
    assert asked == ["a stream"] and elsewhere.waited == 1 and clock_of(elsewhere) == HOST  # type: ignore[arg-type]


def test_the_processor_is_timed_by_the_host() -> None:
    with open_runtime(tiny(), "eager") as runtime:
        call = runtime.prepare({"x": torch.randn(2, 64)})
        assert runtime.stream is None and clock_of(runtime) == HOST
        assert timer_of(runtime, call)(2) > 0
    assert memory_in_use("cpu") is None
    assert bench(tiny(), tiny(), budget=1.0, claim=5.0).environment["clock"] == HOST


def test_a_factory_can_supply_its_own_timer() -> None:
    calls: list[int] = []
    assert Timed(lambda: calls.append(1)).timing()(4) > 0
    assert len(calls) == 4
    assert Timed(lambda: None, timer=lambda calls: 7.0 / calls).timing()(7) == 1.0


def test_an_engine_is_always_measured_on_the_gpu() -> None:
    assert device_for("a.engine", "b.onnx", "cpu") == "cuda"
    assert device_for("a.engine", "b.engine", "cuda:1") == "cuda:1"
    assert device_for("a.onnx", tiny(), "cpu") == "cpu"


@pytest.mark.parametrize(
    ("device", "asked", "replayed"), [("cuda", None, True), ("cuda", False, False), ("cpu", None, False)]
)
def test_recorded_work_is_replayed_on_a_cuda_device(
    device: str, asked: bool | None, replayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice, up to the point where a device is needed."""
    specs: list[RuntimeSpec] = []

    class Seen(Exception):
        pass

    def stop(spec: RuntimeSpec, *_: object, **__: object) -> RuntimeSpec:
        specs.append(spec)
        raise Seen

    monkeypatch.setattr(latency_bench, "stage", stop)
    with pytest.raises(Seen):
        bench(tiny(), tiny(), device=device, cuda_graph=asked)
    assert specs[0].cuda_graph is replayed


@pytest.mark.parametrize("backend", ["eager", "program", "compile"])
def test_pytorchs_runtimes_record_where_they_are_asked_to(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor there is nothing to record; what a device would do is stood in for."""
    recorded: list[Callable[[], object]] = []

    class Stream:
        def __init__(self, *_: object) -> None: ...
        def wait_stream(self, *_: object) -> None: ...

    def record(call: Callable[[], object], stream: object) -> Callable[[], object]:
        recorded.append(call)
        if len(recorded) > 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return lambda: "replay"

    with open_runtime(tiny(), backend, cuda_graph=True) as runtime:
        inputs = {"x": torch.randn(2, 64)}
        assert callable(runtime.prepare(inputs)) and not recorded
        monkeypatch.setattr(torch_runtimes, "record", record)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
        monkeypatch.setattr(runtime, "fit", lambda given: dict(given))
        runtime.device = torch.device("cuda")
        assert runtime.prepare(inputs)() == "replay"
        assert isinstance(runtime.stream, Stream)
        runtime.prepare(inputs)
        assert runtime.notes[-1] == "not recorded as a CUDA graph: operation not permitted when stream is capturing"


def test_device_memory_is_the_increase_after_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    class Factory:
        device = "cuda"

    in_use = iter([100, 340])
    monkeypatch.setattr(latency_child, "memory_in_use", lambda device: (lambda: next(in_use)) if device else None)
    assert latency_child._meter(Factory())() == 240  # type: ignore[arg-type]


@GPU
@pytest.mark.parametrize("backend", ["eager", "program", "compile"])
def test_replays_compute_what_calls_compute(backend: str) -> None:
    inputs = {"x": torch.randn(2, 64)}
    with open_runtime(tiny(), backend, "cuda", cuda_graph=True) as runtime:
        expected = runtime.run(inputs)
        replay = runtime.prepare(inputs)
        assert runtime.stream is not None and not runtime.notes
        held: Any = replay()
        runtime.synchronize()
        assert all(torch.equal(held[name], value) for name, value in expected.items())
        assert 0 < timer_of(runtime, replay)(10) < 0.1


@GPU
def test_bench_on_a_device_uses_cuda_events() -> None:
    result = bench(tiny(), tiny(), device="cuda", budget=40.0, processes=2, claim=5.0)
    assert result.environment["clock"] == EVENTS
    assert all(value is not None for value in result.peak_memory)
