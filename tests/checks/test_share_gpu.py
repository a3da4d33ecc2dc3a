"""Own time on a GPU: traces written by hand in the format of PyTorch's profiler, and real runs where there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cbsurgeon.checks.latency.benchmark import bench
from cbsurgeon.checks.latency.share.estimate import estimate
from cbsurgeon.checks.latency.share.events import LABEL
from cbsurgeon.checks.latency.share.kernels import runs_of
from cbsurgeon.checks.latency.share.measuring import PROFILES
from cbsurgeon.checks.latency.share.trace import Node, Run, Trace, trace_of
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.vocabulary import BACKENDS
from tests.checks.test_share_torch import Rows


def _span(name: str, start: float, length: float) -> Any:
    return {"ph": "X", "cat": "user_annotation", "name": f"{LABEL}{name}", "ts": start, "dur": length, "tid": 1}


def _launch(number: int, at: float, name: str = "cudaLaunchKernel", cat: str = "cuda_runtime") -> Any:
    return {"ph": "X", "cat": cat, "name": name, "ts": at, "dur": 4, "tid": 1, "args": {"correlation": number}}


def _kernel(number: int, at: float, length: float, name: str, grid: int = 1, stream: int = 7) -> Any:
    args = {"correlation": number, "stream": stream, "grid": [grid, 1, 1], "block": [128, 1, 1]}
    return {"ph": "X", "cat": "kernel", "name": name, "ts": at, "dur": length, "tid": stream, "args": args}


def test_kernels_belong_to_the_run_that_launched_them() -> None:
    """Although the GPU runs them later, in an order of its own, and some events belong to no run."""
    events = [
        _launch(1, 5),  # before any run
        _kernel(1, 12, 3, "fill"),
        _span("A", 10, 100),
        _launch(2, 12),
        _launch(3, 20, "cuLaunchKernel", "cuda_driver"),
        _kernel(3, 140, 7.5, "triton_poi_fused_add_gelu_12", 4),  # after the end of the span: clocks differ
        _kernel(2, 130, 9, "gemm", 8),
        {"ph": "f", "cat": "ac2g", "name": "ac2g", "ts": 130, "id": 2},
        {"ph": "i", "name": "a mark", "ts": 60},
        _span("B", 200, 50),
        _launch(9, 203, "cudaMemcpyAsync"),
        {
            "ph": "X",
            "cat": "gpu_memcpy",
            "name": "Memcpy DtoD",
            "ts": 210,
            "dur": 2,
            "tid": 7,
            "args": {"correlation": 9, "bytes": 4096},
        },
        _kernel(77, 215, 1, "of nobody"),  # its launch was not recorded
    ]
    (first, a), (second, b) = runs_of(reversed(events))
    assert (first, second) == ("A", "B")
    assert [node.op for node in a.nodes] == ["gemm", "triton_poi_fused_add_gelu"]
    assert [node.inputs for node in a.nodes] == ["grid 8x1x1 block 128x1x1", "grid 4x1x1 block 128x1x1"]
    assert a.times == (9.0, 7.5)
    assert a.span == 147.5 - 130
    assert b.nodes == (Node("Memcpy DtoD", "4096 bytes"),) and b.times == (2.0,) and b.span == 2.0


def test_all_kernels_of_a_replayed_graph_carry_one_number() -> None:
    """As CUPTI reports them: https://github.com/wolfpld/tracy/pull/1330."""
    events = []
    for run, name in enumerate(("A", "A", "B")):
        at = 1000.0 * run
        events += [_span(name, at, 500), _launch(run, at + 3, "cudaGraphLaunch")]
        parts = ["gemm", "gelu", *(["mean"] if name == "B" else []), "gemm"]
        events += [_kernel(run, at + 20 + 10 * place, 8, part) for place, part in enumerate(parts)]
    found = list(runs_of(events))
    assert [(name, [node.op for node in run.nodes]) for name, run in found] == [
        ("A", ["gemm", "gelu", "gemm"]),
        ("A", ["gemm", "gelu", "gemm"]),
        ("B", ["gemm", "gelu", "mean", "gemm"]),
    ]
    assert [run.span for _, run in found] == [28.0, 28.0, 38.0]


def _replays(parts: list[tuple[str, float]], count: int = 12) -> Trace:
    nodes = tuple(Node(name, "grid 1x1x1 block 128x1x1") for name, _ in parts)
    runs = [Run(nodes, tuple(length * (1 + 0.001 * run) for _, length in parts), 1.0) for run in range(count)]
    found = trace_of(runs)
    assert isinstance(found, Trace)
    return found


def test_a_kernel_that_takes_the_operator_in_costs_what_it_costs_more() -> None:
    """Inductor fuses the mean into another kernel: 10 µs become 13 µs, in a run of 100 µs."""
    a = _replays([("gemm", 60.0), ("fused_gelu", 10.0), ("norm", 30.0)])
    b = _replays([("gemm", 60.0), ("fused_gelu_mean", 13.0), ("norm", 30.0)])
    found = estimate(a, b)
    assert found.overhead.value == pytest.approx(0.03, rel=1e-6)
    assert [part.op for part in found.graph.removed] == ["fused_gelu"]
    assert [part.op for part in found.graph.added] == ["fused_gelu_mean"]


def test_a_run_without_kernels_gives_a_reason() -> None:
    """For instance where the machine does not permit profiling (CUPTI_ERROR_INSUFFICIENT_PRIVILEGES)."""
    runs = [run for _, run in runs_of([_span("A", 0, 10), _span("A", 20, 10)])]
    assert trace_of(runs) == "the profiler recorded no operators"


def test_every_back_end_that_runs_on_a_gpu_has_a_profile() -> None:
    assert {backend for backend, device in PROFILES if device == "cuda"} == set(BACKENDS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("backend", ["eager", "program", "compile"])
def test_a_planted_operator_is_slower(backend: str, recorded: bool) -> None:
    """Its time is that of the two operators alone, measured with CUDA events."""
    sides = [Rows(planted=planted, width=1024).eval() for planted in (False, True)]
    sides[1].load_state_dict(sides[0].state_dict())
    x = torch.randn(1, 4096, 1024)
    a, b = (Model(side, (x,), Provenance(str(place))) for place, side in enumerate(sides))
    result = bench(a, b, backend=backend, device="cuda", budget=5.0, cuda_graph=recorded)
    assert result.own is not None, result.own_missing
    assert any("scan" in part.op or "cumsum" in part.op for part in result.own.graph.added)
    on_gpu, start, end = x.cuda(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(50):
        start.record()
        on_gpu + torch.cumsum(on_gpu, 1)
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end))
    alone = sorted(times)[len(times) // 10]
    assert result.own.overhead.value * result.own.run_microseconds[0] == pytest.approx(alone, rel=0.3)
    same = bench(a, a, backend=backend, device="cuda", budget=5.0, cuda_graph=recorded)
    assert same.own is not None and not same.own.graph
