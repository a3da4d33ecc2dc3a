"""Own time of PyTorch's back ends: traces written by hand, and real runs of a small model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.checks.latency.benchmark import bench
from cbsurgeon.checks.latency.sampling import Timed
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS
from cbsurgeon.checks.latency.share.events import LABEL
from cbsurgeon.checks.latency.share.operators import runs_of
from cbsurgeon.checks.latency.share.torch_profile import profile
from cbsurgeon.checks.latency.share.trace import Trace
from cbsurgeon.checks.latency.share.turns import Profiled
from cbsurgeon.models.model import Model, Provenance

SIZE = 0.3
"""A planted overhead is found with its size within 30 %."""


def _event(name: str, start: float, length: float, dims: Any = None, *, thread: int = 1, cat: str = "cpu_op") -> Any:
    args = {} if dims is None else {"Input Dims": dims}
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length, "tid": thread, "args": args}


def test_a_trace_is_read_down_to_its_operators() -> None:
    """What is inside an operator counts with it; wrappers, other threads and marks do not count."""
    events = [
        _event("aten::zeros", 0, 5),  # before any run
        _event(f"{LABEL}A", 10, 100, cat="user_annotation"),
        _event("aten::addmm", 14, 20, [[8, 8]]),
        _event("aten::linear", 12, 30, [[8, 8], [8, 8], []]),  # starts before what it holds, and is written after it
        _event("Torch-Compiled Region: 3/0", 50, 50),
        _event("## Call CompiledFxGraph fr2sqv5m ##", 52, 46, cat="user_annotation"),
        _event("graph_1_cpp_fused_add_mean_12", 55, 10.5),
        _event("aten::copy_", 56, 3, thread=2),
        {"ph": "i", "name": "a mark", "ts": 60},
        _event(f"{LABEL}B", 200, 20, cat="user_annotation"),
        _event("aten::cat", 201, 9, [[[1, 4], [1, 4]], []]),
    ]
    (first, a), (second, b) = runs_of(events)
    assert (first, second) == ("A", "B")
    assert [(node.op, node.inputs) for node in a.nodes] == [("aten::linear", "[8,8] [8,8]"), ("cpp_fused_add_mean", "")]
    assert a.times == (30.0, 10.5) and a.span == 100.0
    assert [(node.op, node.inputs) for node in b.nodes] == [("aten::cat", "[[1,4],[1,4]]")]


def test_both_models_run_in_turns_under_the_profiler() -> None:
    """Products of known shapes; the second A runs once, and A and B equally often. Every model is closed."""
    x, y, closed = torch.randn(3, 4), torch.randn(4, 5), []

    class Factory:
        spec, device = SimpleNamespace(chosen="eager"), "cpu"

        def __init__(self, name: str, call: Callable[[], object]) -> None:
            self.timed = Timed(call, close=lambda: closed.append(name))

        def __call__(self) -> Timed:
            return self.timed

    a, b = Factory("A", lambda: x @ y), Factory("B", lambda: torch.relu(x @ y))
    found = profile((a, b, a), 0.05)  # type: ignore[arg-type]
    assert isinstance(found, Profiled)
    assert all(isinstance(trace, Trace) for trace in found.traces), found.traces
    first, second, again = (trace for trace in found.traces if isinstance(trace, Trace))
    product = ("aten::matmul", "[3,4] [4,5]")
    assert [(node.op, node.inputs) for node in first.nodes] == [product]
    assert [(node.op, node.inputs) for node in second.nodes] == [product, ("aten::relu", "[3,5]")]
    assert again.nodes == first.nodes
    assert again.runs == 1 and first.runs == second.runs >= FEWEST_RUNS
    assert closed == ["A", "B", "A"]


class Rows(nn.Module):
    """Products in a row; after the first, optionally, a sum over them."""

    def __init__(self, *, planted: bool = False, width: int = 192) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])
        self.planted = planted

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if self.planted and place == 0:
                x = x + torch.cumsum(x, 1)
        return x


def _pair() -> tuple[Model, Model]:
    plain, planted = Rows().eval(), Rows(planted=True).eval()
    planted.load_state_dict(copy.deepcopy(plain.state_dict()))
    made = [
        Model(module, (torch.randn(1, 512, 192),), Provenance(name))
        for module, name in ((plain, "plain"), (planted, "planted"))
    ]
    return made[0], made[1]


def _fastest(*calls: Callable[[], object], runs: int = 100) -> list[float]:
    """Seconds of the tenth fastest of 100 runs of each call, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [sorted(found)[runs // 10] for found in times]


@pytest.mark.parametrize("backend", ["eager", "program"])
def test_a_planted_operator_is_slower(backend: str) -> None:
    """Against the two operators timed alone, on the same tensor.

    Both are timings, and other processes can disturb one and not the other: one of three attempts has to agree.
    """
    a, b = _pair()
    assert a.module is not None
    x = torch.randn(1, 512, 192)
    apart = []
    for _ in range(3):
        result = bench(a, b, backend=backend, threads=1, budget=3.0)
        assert result.own is not None, result.own_missing
        assert [part.op for part in result.own.graph.added] == ["aten::cumsum", "aten::add"]
        assert not result.own.graph.removed and result.own.graph.only_inserted
        with torch.inference_mode():
            planted, whole = _fastest(lambda: x + torch.cumsum(x, 1), lambda: a.module(x))  # type: ignore[misc]
        apart.append((result.own.overhead.value, planted / whole, result.sentence))
        if result.own.overhead.value == pytest.approx(planted / whole, rel=SIZE) and result.verdict == "slower":
            return
    raise AssertionError(f"own time, time alone, verdict: {apart}")


PAUSE = 0.0008
"""Seconds of the planted sleep: between one and a few per cent of a run of the network below, on any machine."""


@torch.library.custom_op("planted::sleep", mutates_args=())
def pause(x: Tensor) -> Tensor:
    """The same numbers, later."""
    time.sleep(PAUSE)
    return x.clone()


@pause.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Sleeping(nn.Module):
    """Wide products, and optionally a sleep on one number."""

    def __init__(self, *, sleeps: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(512, 512, bias=False) for _ in range(6)])
        self.sleeps = sleeps

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x + torch.ops.planted.sleep(x[:1, :1, :1]) if self.sleeps else x


def test_a_planted_sleep_is_found_with_its_size() -> None:
    """Of about one per cent of the run; against the operators timed alone, in turns with the whole."""
    sides = [Sleeping(sleeps=sleeps).eval() for sleeps in (False, True)]
    sides[1].load_state_dict(sides[0].state_dict())
    x = torch.randn(1, 1024, 512)
    a, b = (Model(side, (x,), Provenance(name)) for side, name in zip(sides, ("plain", "sleeping"), strict=True))
    apart = []
    for _ in range(3):
        result = bench(a, b, backend="eager", threads=1, budget=4.0, claim=0.001)
        assert result.own is not None, result.own_missing
        assert "planted::sleep" in {part.op for part in result.own.graph.added}
        with torch.inference_mode():
            planted, whole = _fastest(lambda: x + pause(x[:1, :1, :1]), lambda: sides[0](x), runs=20)
        apart.append((result.own.overhead.value, planted / whole, result.sentence))
        if result.own.overhead.value == pytest.approx(planted / whole, rel=SIZE) and result.verdict == "slower":
            return
    raise AssertionError(f"own time, time alone, verdict: {apart}")


@torch.library.custom_op("cbsurgeon_test::crowded", mutates_args=())
def crowded(x: Tensor) -> Tensor:
    """Like an operator whose threads wait for each other: slow on several threads, fast on one."""
    if torch.get_num_threads() > 1:
        time.sleep(0.01)
    return x.clone()


@crowded.register_fake
def _(x: Tensor) -> Tensor:
    return x.clone()


class Crowded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.cbsurgeon_test.crowded(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_wait_for_each_other_are_no_measurement(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    x = torch.randn(4, 64, 64)

    class Factory:
        spec = SimpleNamespace(chosen="eager")
        device, sites = "cpu", ()

        def __call__(self) -> Timed:
            module = Crowded()
            return Timed(lambda: module(x), lambda: None, lambda: None, mode="eager on cpu")

    try:
        found = profile([Factory(), Factory(), Factory()], 1.0)  # type: ignore[list-item]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    if threads == 1:
        assert isinstance(found, Profiled)
    else:
        assert isinstance(found, str) and "--threads 1" in found


@pytest.mark.slow
def test_compiled_kernels_are_told_apart() -> None:
    """The planted addition is fused into a kernel of A's, so that one kernel is another."""
    a, b = _pair()
    result = bench(a, b, backend="compile", threads=1, budget=3.0)
    assert result.own is not None, result.own_missing
    assert any("cumsum" in part.op for part in result.own.graph.added)
    same = bench(a, a, backend="compile", threads=1, budget=3.0)
    assert same.own is not None and not same.own.graph
